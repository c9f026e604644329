import keras
import numpy as np
import pytest
from keras import layers

from osteo_utils.networks import cost
from osteo_utils.networks.cost import calls, cost_table, memory, milliseconds, multiply_adds


def of_one(layer, shape=(8, 8, 4)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (layers.Conv2D(6, 3, padding="same"), 8 * 8 * 9 * 4 * 6),
        (layers.Conv2D(6, 3, padding="valid"), 6 * 6 * 9 * 4 * 6),
        (layers.Conv2D(6, 3, strides=2, padding="same"), 4 * 4 * 9 * 4 * 6),
        (layers.Conv2D(6, 3, padding="same", groups=2), 8 * 8 * 9 * 2 * 6),
        (layers.Conv2D(6, (1, 7), padding="same"), 8 * 8 * 7 * 4 * 6),
        (layers.Conv2D(6, 3, padding="same", dilation_rate=2), 8 * 8 * 9 * 4 * 6),
        (layers.DepthwiseConv2D(3, padding="same"), 8 * 8 * 9 * 4),
        (layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2), 3 * 3 * 9 * 4 * 2),
        (layers.SeparableConv2D(6, 3, padding="same"), 8 * 8 * (9 * 4 + 4 * 6)),
        (layers.SeparableConv2D(6, 3, strides=2, padding="same"), 4 * 4 * (9 * 4 + 4 * 6)),
        (layers.Conv2DTranspose(6, 2, strides=2), 8 * 8 * 4 * 4 * 6),
        (layers.Dense(5), 8 * 8 * 4 * 5),
        (layers.BatchNormalization(), 0),
        (layers.MaxPooling2D(), 0),
    ],
)
def test_multiply_adds_of_one_layer(layer, expected):
    assert multiply_adds(of_one(layer)) == expected


def test_multiply_adds_of_a_dense_layer_on_a_vector():
    assert multiply_adds(of_one(layers.Dense(5), (7,))) == 35


def test_a_layer_that_is_called_twice_counts_twice():
    inputs = keras.Input((8, 8, 4))
    shared = layers.Conv2D(4, 1)
    assert multiply_adds(keras.Model(inputs, shared(shared(inputs)))) == 2 * 64 * 16


def test_nested_and_sequential_models_count_what_is_inside():
    block = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 1), layers.ReLU()])
    assert multiply_adds(block) == 64 * 16
    assert multiply_adds(of_one(block)) == 64 * 16
    assert memory(of_one(block))["activations"] == 4 * 2 * 8 * 8 * 4


def test_only_the_part_between_input_and_output_counts():
    inputs = keras.Input((8, 8, 4))
    early = layers.Conv2D(6, 1)(inputs)
    late = layers.Conv2D(2, 1)(early)
    keras.Model(inputs, late)
    assert multiply_adds(keras.Model(inputs, early)) == 64 * 24
    assert multiply_adds(keras.Model(early, late)) == 64 * 12


def test_unknown_weight_matrices_and_open_sizes_are_refused():
    with pytest.raises(ValueError, match=r"embedding.*multiply-adds are unknown"):
        multiply_adds(of_one(layers.Embedding(10, 4), (5,)))
    with pytest.raises(ValueError, match="fixed size"):
        multiply_adds(of_one(layers.Conv2D(2, 1), (None, None, 1)))
    with pytest.raises(ValueError, match=r"keras\.Input"):
        multiply_adds(keras.Sequential([layers.Dense(1)]))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("MobileNetV2", 294e6, 306e6), ("VGG16", 15.3e9, 15.5e9), ("ResNet50", 3.8e9, 3.9e9)],
)
def test_known_networks_cost_what_their_papers_say(name, low, high):
    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    assert low < multiply_adds(model) < high


def test_memory_by_hand():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(2, 3)(inputs)  # 6 x 6 x 2 values, 18 weights and 2 biases
    x = layers.GlobalAveragePooling2D()(x)  # 2 values
    model = keras.Model(inputs, layers.Dense(3)(x))  # 3 values, 6 weights and 3 biases
    assert memory(model) == {"weights": 4 * 29, "activations": 4 * (72 + 2 + 3)}


def test_milliseconds_are_the_median_of_an_image(monkeypatch):
    class Slow:
        def predict_on_batch(self, batch):
            times.append(times[-1] + next(steps))

    times, steps = [0.0], iter([9.0, 0.2, 0.4, 5.0])  # the first is the warm-up
    monkeypatch.setattr(cost.time, "perf_counter", lambda: times[-1])
    assert milliseconds(Slow(), np.zeros((4, 1)), repeats=3) == pytest.approx(100)


def test_cost_table_has_a_row_for_each_model():
    small = of_one(layers.Conv2D(6, 3), (8, 8, 1))
    table = cost_table({"one": small, "two": of_one(layers.Dense(5), (7,))}, batch_size=2)
    assert list(table.index) == ["one", "two"]
    assert table.loc["one", "parameters"] == 60
    assert table.loc["one", "multiply_adds"] == 36 * 54
    assert table.loc["two", "weights_mb"] == pytest.approx(160e-6)
    assert table.loc["one", "activations_mb"] == pytest.approx(4 * 36 * 6 / 1e6)
    assert (table["milliseconds"] > 0).all()


def test_calls_know_their_parents():
    inputs = keras.Input((8, 8, 1))
    left, right = layers.Conv2D(2, 1)(inputs), layers.Conv2D(3, 1)(inputs)
    found = calls(keras.Model(inputs, layers.Concatenate()([left, right])))
    kinds = [type(call.layer).__name__ for call in found]
    assert kinds == ["InputLayer", "Conv2D", "Conv2D", "Concatenate"]
    assert [c.parents for c in found] == [(), (0,), (0,), (1, 2)]
    assert found[-1].output == (8, 8, 5)
    assert found[-1].inputs == ((8, 8, 2), (8, 8, 3))
