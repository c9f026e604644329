"""What the command line and the app share: how a trained network is asked about a film."""

from typing import TYPE_CHECKING

from osteo_utils.registry import last_conv_layers
from osteo_utils.runs import Run
from osteo_utils.saliency.gradcam import last_conv_layer, layer_candidates

if TYPE_CHECKING:
    import keras


def map_layers(run: Run, network: "keras.Model") -> dict[str, str]:
    """The layer whose maps a saliency method reads, by branch; one entry but for a fusion.

    Where the registry does not know the network, or knows another one of this name, it is the last
    layer with feature maps. `CamError` if there is none.
    """
    name = str(run.info["model"])
    try:
        layers = last_conv_layers(name, int(run.info["image_size"]))
    except ValueError:
        layers = {}
    there = set(layer_candidates(network))
    return layers if layers and set(layers.values()) <= there else {name: last_conv_layer(network)}
