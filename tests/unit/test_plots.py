"""Figures: each carries its alternative text, and says what its numbers say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from osteo_utils.figures import plots


@pytest.fixture
def displayed(monkeypatch):
    """What `show` hands to the notebook, as HTML strings."""
    seen: list[str] = []
    monkeypatch.setattr(plots, "display", lambda html: seen.append(html.data))
    return seen


def test_show_embeds_the_picture_with_its_escaped_alt_and_closes_the_figure(displayed):
    figure = plots.image_grid(np.zeros((3, 8, 8), np.uint8), ["a", "b", "c"])
    plots.show(figure, 'Three black squares, each "empty" & < 1')
    assert 'alt="Three black squares, each &quot;empty&quot; &amp; &lt; 1"' in displayed[0]
    assert "data:image/webp;base64," in displayed[0]
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize("alt", ["", "   ", "figure.png", "confusion matrix"])
def test_show_refuses_a_figure_that_does_not_say_what_it_shows(displayed, alt):
    figure, _ = plt.subplots()
    with pytest.raises(ValueError, match="alt text"):
        plots.show(figure, alt)
    assert displayed == []


def test_confusion_matrix_prints_counts_and_row_shares():
    figure = plots.confusion_matrix(np.array([[3, 1, 0], [0, 2, 2], [0, 0, 5]]))
    texts = [text.get_text() for text in figure.axes[0].texts]
    nothing = "0\n0%"
    assert texts[:3] == ["3\n75%", "1\n25%", nothing]
    assert texts[3:] == [nothing, "2\n50%", "2\n50%", nothing, nothing, "5\n100%"]


def test_a_class_without_images_leaves_an_empty_row_not_a_crash():
    figure = plots.confusion_matrix(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 5]]))
    assert [text.get_text() for text in figure.axes[0].texts][3:6] == ["0\n0%"] * 3


def test_intervals_draw_each_row_from_low_to_high_in_the_order_of_the_table():
    columns = {"value": [0.5, 0.7], "low": [0.4, 0.6], "high": [0.55, 0.9]}
    table = pd.DataFrame(columns, index=["x", "y"])
    axis = plots.intervals(table, "score", {"chance": 1 / 3}).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "y"]
    assert list(axis.get_yticks()) == [1, 0]
    segments = axis.collections[0].get_segments()
    assert np.allclose([segment[:, 0] for segment in segments], [[0.4, 0.55], [0.6, 0.9]])


def test_cam_grid_puts_all_maps_on_one_scale():
    maps = np.stack([np.full((2, 2), 1.0), np.full((2, 2), 4.0)])
    figure = plots.cam_grid(np.zeros((2, 8, 8), np.uint8), maps, ["low", "high"])
    limits = [axis.images[1].get_clim() for axis in figure.axes[:2]]
    assert limits == [(0, 4), (0, 4)]


def test_cam_grid_draws_signed_maps_around_zero_in_colours_that_part_there():
    maps = [np.array([[1.0, -6.0]]), np.full((2, 2), 4.0), np.full((2, 2), np.nan)]
    figure = plots.cam_grid(np.zeros((3, 8, 8), np.uint8), maps, ["both", "for", "flat"])
    drawn = [axis.images[1] for axis in figure.axes[:3]]
    assert [each.get_clim() for each in drawn] == [(-6, 6)] * 3
    assert {each.get_cmap().name for each in drawn} == {"berlin"}
    middle = drawn[0].get_cmap()(0.5)[:3]
    assert max(middle) < 0.1  # black where nothing speaks
    assert figure.axes[3].get_ylim() == (-6, 6)  # of the colour bar


def test_a_grid_without_images_or_columns_is_refused():
    with pytest.raises(ValueError, match="images: expected at least 1, found 0"):
        plots.image_grid(np.zeros((0, 8, 8), np.uint8), [])
    with pytest.raises(ValueError, match="columns: expected at least 1, found 0"):
        plots.image_grid(np.zeros((2, 8, 8), np.uint8), ["a", "b"], columns=0)


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_cam_grid_keeps_its_scale_whichever_map_is_flat(flat):
    maps = np.stack([np.full((2, 2), 1.0), np.full((2, 2), 4.0), np.full((2, 2), 4.0)])
    maps[flat] = np.nan
    figure = plots.cam_grid(np.zeros((3, 8, 8), np.uint8), maps, ["a", "b", "c"])
    assert [axis.images[1].get_clim() for axis in figure.axes[:3]] == [(0, 4)] * 3


def test_cam_grid_of_flat_maps_alone_is_refused():
    with pytest.raises(ValueError, match="at least one finite value to scale by"):
        plots.cam_grid(np.zeros((1, 8, 8), np.uint8), np.full((1, 2, 2), np.nan), ["flat"])


def test_roc_curve_of_a_perfect_classifier_has_area_one():
    labels = np.array([0, 1, 2, 0, 1, 2])
    figure = plots.roc_curves(labels, np.eye(3)[labels])
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    names = ("Normal", "Osteopenia", "Osteoporosis")
    assert legend[:3] == [f"{name} (area 1.00)" for name in names]


def test_reliability_leaves_out_empty_bins():
    table = pd.DataFrame({"confidence": [np.nan, 0.9], "accuracy": [np.nan, 0.8], "count": [0, 10]})
    axis = plots.reliability(table).axes[0]
    assert len(axis.collections[0].get_offsets()) == 1
