"""What is known of the networks without Keras, for whoever must not wait for it."""

from typing import Final

# In the order of the chapters, in which every table and figure names them.
MODELS: Final = (
    *("custom_cnn", "alexnet", "vgg16", "vgg19", "resnet50", "inception_v3", "xception"),
    *("densenet121", "mobilenet_v2", "late_fusion"),
)
# A fusion with a name of its own, and the backbones that it joins.
MEMBERS: Final = {"late_fusion": ("vgg16", "inception_v3")}
