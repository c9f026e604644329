"""Images a second of Grad-CAM: ours, tf-keras-vis and xplique, in one run on one network.

    python benchmarks/bench_gradcam.py [model] [images] [size]

The network is one of the registry's backbones, flat, with float images in and logits out, the kind
all three can take. Its weights are random: the clock does not see the difference. The images go
through in one batch; xplique alone also stretches its maps to the images. Each line is the median
of rounds in which the three take turns, after two calls of each that are not counted. The first
call is printed too: it is what a single use costs.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from tf_keras_vis.gradcam import Gradcam
from xplique.attributions import GradCAM

from osteo_utils.networks.models import BACKBONES
from osteo_utils.registry import get_architecture
from osteo_utils.saliency.gradcam import grad_cam

ROUNDS = 7


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def network(name: str, size: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    images = keras.Input((size, size, 3))
    maps = BACKBONES[name](images, None, 1.0)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    model = keras.Model(images, keras.layers.Dense(3, kernel_initializer="ones")(pooled))
    for layer in model.layers:  # else the maps of an untrained network are flat
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(layer.beta + 0.3)
            layer.moving_variance.assign(layer.moving_variance * 0.05)
    return model


def contestants(model: keras.Model, layer: str, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The raw maps of class 0 by each library."""
    vis = Gradcam(model, clone=False)
    options = {
        "penultimate_layer": layer,
        "seek_penultimate_conv_layer": False,
        "expand_cam": False,
        "normalize_cam": False,
    }
    one_hot = np.eye(3, dtype=np.float32)[np.zeros(len(x), dtype=int)]
    plique = GradCAM(model, batch_size=len(x), conv_layer=layer)
    return {
        "osteo_utils": lambda: grad_cam(model, x, 0, layer, batch_size=len(x)),
        "tf-keras-vis": lambda: vis(lambda y: y[:, 0], x, **options),
        "xplique": lambda: plique(x, one_hot),
    }


def main() -> None:
    name, images, size = (*sys.argv[1:4], *("mobilenet_v2", "32", "224")[len(sys.argv) - 1 :])
    x = np.random.default_rng(0).normal(size=(int(images), int(size), int(size), 3))
    model = network(name, int(size))
    runs = contestants(model, get_architecture(name).last_conv, x.astype(np.float32))
    first = {library: seconds(run) for library, run in runs.items()}
    maps = {library: np.asarray(run()) for library, run in runs.items()}
    apart = np.abs(maps["osteo_utils"] - maps["tf-keras-vis"]).max() / maps["osteo_utils"].max()
    rounds = [{library: seconds(run) for library, run in runs.items()} for _ in range(ROUNDS)]
    speed = {k: int(images) / float(np.median([r[k] for r in rounds])) for k in runs}
    print(f"Grad-CAM of {name}, {images} images of {size} px in one batch, {ROUNDS} rounds")
    print(f"our maps and those of tf-keras-vis differ by {apart:.0e} of the largest value")
    for library in runs:
        print(f"{library:12s} {speed[library]:7.1f} images/s   first call {first[library]:5.2f} s")
    ratio = speed["osteo_utils"] / max(speed["tf-keras-vis"], speed["xplique"])
    verdict = "at least twice" if ratio >= 2 else "LESS than twice"
    print(f"{ratio:.2f} times the faster of the two: {verdict}")


if __name__ == "__main__":
    main()
