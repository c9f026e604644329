from itertools import combinations

import keras
import matplotlib.pyplot as plt
import pytest
from keras import layers
from matplotlib.patches import FancyBboxPatch

from osteo_utils.diagrams import describe, graph_diagram, graphs, outline, stage_diagram
from osteo_utils.networks.cost import calls


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def conv(x, filters, side=3, stride=1):
    x = layers.Conv2D(filters, side, stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def small_net():
    """Two sizes of maps, 28 + 3 numbers in the dense layer of 7 inputs."""
    inputs = keras.Input((32, 32, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, padding="same")(x)  # 40
    x = layers.Conv2D(4, 3, padding="same")(x)  # 148
    x = layers.Conv2D(7, 1)(layers.MaxPooling2D()(layers.ZeroPadding2D(1)(x)))  # 35
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(3)(x), name="small")  # 24


def inception_module():
    inputs = keras.Input((16, 16, 8))
    ways = [conv(inputs, 4, 1), conv(conv(inputs, 4, 1), 6), conv(conv(conv(inputs, 2, 1), 4), 4)]
    ways.append(conv(layers.AveragePooling2D(3, 1, padding="same")(inputs), 2, 1))
    return keras.Model(inputs, layers.Concatenate()(ways), name="module")


def reduction():
    """A module in which one branch still works at the old size, then the smaller maps."""
    inputs = keras.Input((16, 16, 1))
    x = layers.Concatenate()([conv(inputs, 4), conv(inputs, 6)])
    left, right = conv(x, 3, stride=2), conv(conv(x, 5), 3, stride=2)
    return keras.Model(inputs, layers.Flatten()(layers.Concatenate()([left, right])))


def fused():
    inputs = keras.Input((32, 32, 1))
    left = layers.GlobalAveragePooling2D()(conv(conv(inputs, 4), 8, stride=2))
    right = layers.GlobalAveragePooling2D()(conv(inputs, 6, stride=4))
    x = layers.Concatenate()([left, right])
    return keras.Model(inputs, layers.Dense(3)(x), name="both")


def boxes_on(fig):
    fig.draw_without_rendering()
    ax = fig.axes[0]
    return [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]


def overlapping(boxes):
    shrunk = [box.padded(-1) for box in boxes]
    return [(a, b) for a, b in combinations(shrunk, 2) if a.overlaps(b)]


def text_boxes(fig):
    fig.draw_without_rendering()
    return [t.get_window_extent() for t in fig.axes[0].texts if t.get_text()]


def test_outline_groups_layers_by_the_size_of_their_maps():
    net = outline(small_net())
    (row,) = net.rows
    assert [stage.size for stage in row] == ["32×32×4", "17×17×7"]
    assert [stage.contents for stage in row] == [["2 conv"], ["1 conv", "1 max pool"]]
    assert net.image.size == "32×32×1"
    assert net.share(row[0].calls) == pytest.approx(188 / 247)
    assert net.share(net.tail) == pytest.approx(24 / 247)


def test_channels_are_those_of_the_layer_that_all_ways_pass():
    (row,) = outline(reduction()).rows
    assert [stage.size for stage in row] == ["16×16×10", "8×8×6"]
    assert row[0].contents == ["3 conv", "1 concat"]


def test_branches_that_meet_as_vectors_are_rows():
    net = outline(fused())
    sizes = [[stage.size for stage in row] for row in net.rows]
    assert sizes == [["32×32×4", "16×16×8"], ["8×8×6"]]
    assert [[call.output for call in tail] for tail in net.tails] == [[(8,)], [(6,)]]
    assert [call.output for call in net.tail] == [(14,), (3,)]


@pytest.mark.parametrize("make", [small_net, inception_module, reduction, fused])
def test_no_texts_overlap_and_all_are_inside_and_legible(make):
    for draw in (stage_diagram, graph_diagram):
        fig, _ = draw(make())
        assert not overlapping(text_boxes(fig))
        assert all(fig.bbox.padded(1).containsx(b.x0) for b in text_boxes(fig))
        assert all(fig.bbox.padded(1).containsx(b.x1) for b in text_boxes(fig))
        assert min(t.get_fontsize() for t in fig.axes[0].texts if t.get_text()) >= 8
        assert fig.get_facecolor() == (1, 1, 1, 1)
        assert fig.get_figwidth() <= 7.6


def test_stage_diagram_says_what_it_shows():
    _, alt = stage_diagram(small_net())
    assert "small" in alt
    assert "32×32×4 to 17×17×7" in alt
    assert "247 parameters, 76 %, is in the layers at 32×32" in alt
    _, alt = stage_diagram(fused())
    assert "in 2 branches" in alt
    assert "joined 14, dense 3" in alt


def test_models_without_maps_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="feature maps"):
        stage_diagram(keras.Model(inputs, layers.Dense(3)(inputs)))


def test_graph_shows_every_layer_and_no_boxes_overlap():
    model = inception_module()
    fig, alt = graph_diagram(model)
    boxes = boxes_on(fig)
    assert len(boxes) == 10  # input, seven convolutions, pooling, concatenation
    assert not overlapping(boxes)
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert sum(t == "batch norm" for t in texts) == 7
    assert sum(t == "ReLU" for t in texts) == 7
    assert "up to 4 ways leave one box, and they meet again in concatenate (1)" in alt
    assert f"{model.count_params():,} parameters" in alt


def test_graph_of_a_chain_says_that_it_has_no_branch():
    inputs = keras.Input((8, 8, 1))
    fig, alt = graph_diagram(keras.Model(inputs, conv(conv(inputs, 2), 2), name="chain"))
    assert len(boxes_on(fig)) == 3
    assert "without a branch" in alt


def test_arrows_that_skip_a_row_pass_beside_its_boxes():
    inputs = keras.Input((8, 8, 4))
    x = layers.Add()([inputs, conv(conv(inputs, 4), 4)])
    found = graphs._boxes(calls(keras.Model(inputs, x)))
    bands, edges = graphs._bands(found)
    graphs._order(bands, edges)
    graphs._place(bands, edges)
    assert [len(band) for band in bands] == [1, 2, 2, 1]
    for band in bands[1:3]:
        one, other = sorted(band, key=lambda box: box.x)
        assert other.x - one.x >= (one.width + other.width) / 2


def test_ordering_removes_crossings_that_need_not_be():
    inputs = keras.Input((8, 8, 1))
    tops = [layers.Conv2D(n, 1)(inputs) for n in (1, 2, 3)]
    ends = [layers.Conv2D(2, 1)(x) for x in reversed(tops)]
    bands, edges = graphs._bands(graphs._boxes(calls(keras.Model(inputs, ends))))
    bands[1].reverse()
    assert graphs._crossings(bands, edges) == 3
    graphs._order(bands, edges)
    assert graphs._crossings(bands, edges) == 0


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (layers.Conv2D(64, 3), "Conv2D 64, 3×3"),
        (layers.Conv2D(64, (1, 7), strides=2), "Conv2D 64, 1×7, /2"),
        (layers.Conv2D(4, 3, groups=2), "Conv2D 4, 3×3, 2 groups"),
        (layers.DepthwiseConv2D(3), "DepthwiseConv2D 3×3"),
        (layers.MaxPooling2D(2), "max pool 2×2, /2"),
        (layers.BatchNormalization(), "batch norm"),
        (layers.ReLU(6.0), "ReLU up to 6"),
        (layers.Dropout(0.5), "dropout 0.5"),
        (layers.Dense(1000), "Dense 1,000"),
        (layers.Activation("softmax"), "softmax"),
    ],
)
def test_layers_are_described_with_their_settings(layer, text):
    inputs = keras.Input((8, 8, 4))
    assert describe(calls(keras.Model(inputs, layer(inputs)))[-1]) == text
