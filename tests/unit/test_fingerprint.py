"""The fingerprint of a network follows what it is made of, and nothing else."""

import keras
import pytest
from keras import layers, ops
from tiny_networks import register

from osteo_utils.fingerprint import describe, network_digests, plain
from osteo_utils.networks import models
from osteo_utils.networks.models import build

norm = layers.BatchNormalization


def tiny(filters=8, activation="relu", branch=False):
    """A backbone whose layers are numbered by Keras, as a reader would write it."""

    def backbone(x, weights, width):
        x = layers.Conv2D(filters, 3, strides=2, activation=activation)(x)
        first = x = layers.BatchNormalization()(x)
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same")(x)
        return layers.Add()([first, x]) if branch else x

    return backbone


def digests(monkeypatch, backbone, seed=0):
    register(monkeypatch, backbone)
    return network_digests(build("tiny", 32, seed=seed))


def head(vector, rate):
    x = layers.Dense(3, name="logits")(layers.Dropout(rate, name="dropout")(vector))
    return layers.Activation("softmax", dtype="float32")(x)


def changed(before, after):
    return {key for key in before if before[key] != after[key]}


def test_it_is_the_same_in_every_version_of_keras_and_on_every_backend(monkeypatch):
    # Computed with Keras 3.15 on TensorFlow; `make versions` asks older ones for the same.
    known = {"augmentation": "9152f379799ab525", "backbone": "d8499e049b32f974"}
    assert digests(monkeypatch, tiny(branch=True)) == known | {"head": "434b1ae5d203935e"}


def test_neither_seed_nor_earlier_models_nor_names_count(monkeypatch):
    first = digests(monkeypatch, tiny())
    layers.Conv2D(4, 3)  # later layers are numbered on
    assert digests(monkeypatch, tiny(), seed=7) == first
    assert network_digests(build("custom_cnn", 32)) == network_digests(build("custom_cnn", 32))


@pytest.mark.parametrize("other", [{"filters": 9}, {"activation": "elu"}, {"branch": True}])
def test_layers_settings_and_wiring_count(monkeypatch, other):
    before = digests(monkeypatch, tiny())
    assert "backbone" in changed(before, digests(monkeypatch, tiny(**other)))


def test_dropout_and_augmentation_count_and_are_told_apart(monkeypatch):
    before = digests(monkeypatch, tiny())
    with monkeypatch.context() as patch:
        patch.setattr(models, "_head", lambda vector, hidden: head(vector, 0.2))
        assert digests(monkeypatch, tiny()) == before
        patch.setattr(models, "_head", lambda vector, hidden: head(vector, 0.5))
        assert changed(before, digests(monkeypatch, tiny())) == {"head"}
    monkeypatch.setattr(models, "_augment", lambda x, seed: layers.Rescaling(1 / 255)(x))
    assert changed(before, digests(monkeypatch, tiny())) == {"augmentation"}


def test_a_network_that_was_not_built_here_is_refused():
    with pytest.raises(ValueError, match="expected a layer grey_to_rgb or preprocessing"):
        network_digests(keras.Sequential([keras.Input((4,)), layers.Dense(2)]))


def test_the_starting_weights_a_network_is_built_for_count():
    scratch, transfer = (network_digests(build("mobilenet_v2", 32, w)) for w in (None, "unloaded"))
    assert changed(scratch, transfer) == {"backbone"}


def test_settings_are_plain_and_those_that_say_no_are_left_out():
    found = plain({"a": (1, 2.5), "b": None, "c": False, "module": "keras", "d": {"name": "x"}})
    assert found == {"a": [1, 2.5], "d": {}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x * 0.5, lambda x: x * 2.0),
        (lambda x: x - 1, lambda x: 1 - x),
        (lambda x: x**2, lambda x: x**3),
        (lambda x: ops.multiply(x, 0.1), lambda x: ops.multiply(x, 3)),
        (lambda x: x[:, 1:], lambda x: x[:, :-1]),
        (lambda x: layers.Dense(4)(x), lambda x: layers.Dense(4, trainable=False)(x)),
        (lambda x: layers.Dense(4)(x), lambda x: layers.Dense(4, use_bias=False)(x)),
        (lambda x: norm()(x), lambda x: norm(center=False)(x)),
    ],
)
def test_constants_frozen_layers_and_what_is_switched_off_count(one, other):
    x = keras.Input((6,))
    assert describe(keras.Model(x, one(x))) == describe(keras.Model(x, one(x)))
    assert describe(keras.Model(x, one(x))) != describe(keras.Model(x, other(x)))


def of_my_own(factor):
    """A layer of one name and of the same settings, whatever it does."""

    class Scaled(layers.Layer):
        def call(self, x):
            return 2 * x

    class Tripled(layers.Layer):
        def call(self, x):
            return 3 * x

    kind = {2: Scaled, 3: Tripled}[factor]
    kind.__name__ = "Scaled"
    return kind()


def test_constants_and_properties_of_a_layer_of_ones_own_count():
    def kind(factor, offset):
        class Scaled(layers.Layer):
            FACTOR = factor

            @property
            def offset(self):
                return 1

            def call(self, x):
                return self.FACTOR * x + self.offset

        class Moved(Scaled):
            @property
            def offset(self):
                return 2

        Moved.__name__ = "Scaled"
        return (Scaled if offset == 1 else Moved)()

    films = keras.Input((8, 8, 1))
    made = [kind(*which)(films) for which in ((2, 1), (2, 1), (3, 1), (2, 2))]
    rows = [describe(keras.Model(films, end))[-1] for end in made]
    assert rows[0] == rows[1]
    assert changed(rows[0], rows[2]) == changed(rows[0], rows[3]) == {"source"}


def test_a_layer_whose_code_cannot_be_read_is_refused():
    space = {"layers": layers, "__name__": "typed"}
    exec("class Typed(layers.Layer):\n    def call(self, x):\n        return x", space)
    films = keras.Input((8, 8, 1))
    with pytest.raises(ValueError, match=r"Typed: expected a layer whose code is in a file"):
        describe(keras.Model(films, space["Typed"]()(films)))


def test_the_source_of_a_layer_that_is_none_of_keras_counts():
    films = keras.Input((8, 8, 1))
    rows = [describe(keras.Model(films, of_my_own(factor)(films)))[-1] for factor in (2, 2, 3)]
    assert rows[0] == rows[1] != rows[2]
    assert changed(rows[0], rows[2]) == {"source"}
    assert "source" not in describe(keras.Model(films, layers.Conv2D(2, 3)(films)))[-1]
