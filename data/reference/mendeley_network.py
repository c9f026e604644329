"""The locator that lost: a small heat-map network trained on phantom films (Zhou et al., 2019).

Kept here so that its row in mendeley_locator.csv can be made again; the package does not use it.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from osteo_utils.chapters.locator import Film, Knee, simulate_film
from osteo_utils.data.images import fit_square

SIDE, CELLS = 128, 32  # pixels of the input, cells of the map
FILMS, EPOCHS, BATCH, RATE = 1500, 10, 32, 3e-3
SECOND = 0.6  # width of what the first knee covers, in widths of its joint


def block(x: Any, filters: int, stride: int = 1, dilation: int = 1) -> Any:  # noqa: ANN401
    """Convolution, batch norm, ReLU."""
    x = layers.Conv2D(filters, 3, stride, "same", dilation_rate=dilation, use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def build() -> keras.Model:
    """Grey (128, 128, 1) in; (32, 32, 2) out: chance of a joint's centre, log of its width."""
    inputs = keras.Input((SIDE, SIDE, 1))
    fine = block(block(layers.Rescaling(1 / 127.5, -1)(inputs), 12, 2), 24, 2)
    x = block(fine, 40, 2)
    for dilation in (1, 2, 4, 2):
        x = layers.Add()([x, block(x, 40, dilation=dilation)])
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = block(layers.Concatenate()([x, fine]), 32)
    heat = layers.Conv2D(1, 1, bias_initializer=keras.initializers.Constant(-4.0))(x)
    width = layers.Conv2D(1, 1, bias_initializer=keras.initializers.Constant(-1.3))(x)
    outputs = layers.Concatenate()([layers.Activation("sigmoid")(heat), width])
    return keras.Model(inputs, outputs)


def target(film: Film) -> np.ndarray:
    """A Gaussian hill on every joint, an eighth of its width broad, and the log of the width."""
    centre = (np.arange(CELLS) + 0.5) * SIDE / CELLS
    maps = np.zeros((CELLS, CELLS, 2), np.float32)
    for knee in film.knees:
        square = (centre[None] - knee.x) ** 2 + (centre[:, None] - knee.y) ** 2
        hill = np.exp(-square / 2 / (0.12 * knee.width) ** 2)
        maps[..., 1] = np.where(hill > maps[..., 0], np.log(knee.width / SIDE), maps[..., 1])
        maps[..., 0] = np.maximum(maps[..., 0], hill)
    return maps


def loss(truth: Any, output: Any) -> Any:  # noqa: ANN401
    """Cross-entropy of the hills, the hills weighted up, and the error of the width on them."""
    hill, said = truth[..., 0], ops.clip(output[..., 0], 1e-5, 1 - 1e-5)
    entropy = -(hill * ops.log(said) + (1 - hill) * ops.log(1 - said)) * (1 + 4 * hill)
    width = ops.sum(hill * ops.abs(truth[..., 1] - output[..., 1])) / (ops.sum(hill) + 1)
    return ops.sum(entropy) / (ops.sum(hill) + 10) + width


def train(seed: int = 0) -> keras.Model:
    """Trained on phantom films and their mirror images: two to three minutes on one core."""
    rng = np.random.default_rng(seed)
    films = [simulate_film(rng, SIDE) for _ in range(FILMS)]
    x = np.stack([film.image for film in films])[..., None]
    y = np.stack([target(film) for film in films])
    x, y = np.concatenate([x, x[:, :, ::-1]]), np.concatenate([y, y[:, :, ::-1]])
    keras.utils.set_random_seed(seed)
    model = build()
    steps = -(-len(x) // BATCH) * EPOCHS
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=2)
    return model


def locate(model: keras.Model, image: np.ndarray, least: float) -> list[Knee]:
    """Up to two highest hills of at least that height, left to right, in pixels of the film."""
    side = max(image.shape)
    down, right = ((side - n) // 2 for n in image.shape)
    batch = fit_square(image, SIDE)[None, ..., None].astype("float32")
    heat, width = np.moveaxis(np.array(model(batch, training=False))[0], -1, 0)
    y, x = np.mgrid[:CELLS, :CELLS]
    knees: list[Knee] = []
    while len(knees) < 2 and heat.max() >= least:
        peak = np.hypot(
            *(g - at for g, at in zip((y, x), divmod(heat.argmax(), CELLS), strict=True))
        )
        near = heat * (peak < 1.5)
        near, height = near / near.sum(), float(heat.max())
        at = [float(((g + 0.5) * near).sum() * side / CELLS) for g in (x, y)]
        wide = float(np.exp((width * near).sum()) * side)
        knees.append(Knee(at[0] - right, at[1] - down, wide, height))
        heat = heat * (peak >= max(SECOND * wide / side * CELLS, 1.5))
    return sorted(knees)
