from functools import partial

import keras
import numpy as np
import pytest
from keras import layers

from osteo_utils.chapters import faithfulness as f
from osteo_utils.errors import CorpusError
from osteo_utils.saliency.gradcam import grad_cam

SIDE, N = 32, 3
NAN = np.full((1, SIDE, SIDE), np.nan, np.float32)


def rectangle(rows, columns, n=N):
    """Bool (n, 32, 32), True inside."""
    mask = np.zeros((n, SIDE, SIDE), bool)
    mask[:, slice(*rows), slice(*columns)] = True
    return mask


LEFT = rectangle((0, 32), (0, 16))
KNOWN = rectangle((8, 24), (0, 16))  # a quarter of the film, off its centre
WHITE = np.full((N, SIDE, SIDE, 1), 255, np.uint8)


def mean_over(mask):
    """Two outputs: the mean grey level, 0 to 1, of a known rectangle, and 1 minus it."""
    inputs = keras.Input((SIDE, SIDE, 1))
    dense = layers.Dense(2)
    model = keras.Model(inputs, dense(layers.Flatten()(layers.Rescaling(1 / 255)(inputs))))
    column = mask[0].ravel() / mask[0].sum()
    dense.set_weights([np.stack([column, -column], axis=1), np.array([0.0, 1.0])])
    return model


@pytest.fixture(scope="module")
def known():
    return mean_over(KNOWN)


@pytest.fixture(scope="module")
def network():
    """Two blocks with batch norm, nested, whose every weight matters."""
    keras.utils.set_random_seed(0)
    x = block = keras.Input((SIDE, SIDE, 1))
    for width, name in ((8, "first"), (12, "second")):
        x = layers.Conv2D(width, 3, padding="same", strides=2, name=f"{name}_conv")(x)
        x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))
    nested = keras.Model(block, x, name="block")
    inputs = keras.Input((SIDE, SIDE, 1))
    pooled = layers.GlobalAveragePooling2D()(nested(layers.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="logits")(pooled))
    rng = np.random.default_rng(0)
    for name in ("first_norm", "second_norm"):
        layer = nested.get_layer(name)
        layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


@pytest.fixture(scope="module")
def films():
    rng = np.random.default_rng(1)
    return (255 * f.random_maps(4, SIDE, rng, cells=8) / 8).clip(0, 255).astype(np.uint8)[..., None]


def edges(model, images, target):
    """A "method" that draws the edges of the film and never asks the model."""
    down, across = np.gradient(images[..., 0].astype(np.float32), axis=(1, 2))
    return np.hypot(down, across)


# --- against masks


def test_pointing_game_of_a_hit_a_miss_and_a_tie():
    maps = np.zeros((N, SIDE, SIDE), np.float32)
    maps[0, 5, 3] = maps[1, 5, 20] = maps[2, 5, 3] = maps[2, 5, 20] = 7
    assert f.pointing_game(maps, LEFT).tolist() == [1, 0, 0.5]


def test_pointing_game_counts_a_maximum_within_the_tolerance():
    maps = np.zeros((N, SIDE, SIDE), np.float32)
    maps[:, 5, 18] = 1  # column 15 is the last inside
    assert f.pointing_game(maps, LEFT, tolerance=2).tolist() == [0, 0, 0]
    assert f.pointing_game(maps, LEFT, tolerance=3).tolist() == [1, 1, 1]


def test_a_coarse_map_is_laid_over_the_mask_as_it_is_shown():
    maps = np.array([[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]]], np.float32)
    assert f.pointing_game(maps, LEFT).tolist() == [1, 0, 1]


def test_share_inside_is_of_the_positive_part():
    maps = np.where(LEFT, 3, 1).astype(np.float32)
    maps[1] = np.where(LEFT[1], 1, -5)
    assert f.share_inside(maps, LEFT) == pytest.approx([0.75, 1, 0.75])


def test_a_map_without_a_positive_value_has_no_share():
    assert np.isnan(f.share_inside(-np.ones((N, SIDE, SIDE), np.float32), LEFT)).all()


def test_best_share_is_that_of_the_best_cell():
    # Of two cells across, the left one is 1 for a quarter and falls to 0 over the next half.
    assert f.best_share(LEFT, 2) == pytest.approx([0.875] * N, abs=1e-3)
    maps = np.random.default_rng(0).random((N, 3, 3)).astype(np.float32)
    assert (f.share_inside(maps, KNOWN) < f.best_share(KNOWN, 3)).all()


def test_top_overlap_of_the_right_half_the_wrong_half_and_a_shifted_one():
    shifted = rectangle((0, 32), (8, 24))[2]  # shares half of its area: 1/2 of 3/2
    maps = np.stack([LEFT[0], ~LEFT[1], shifted]).astype(np.float32)
    assert f.top_overlap(maps, LEFT) == pytest.approx([1, 0, 1 / 3])


def test_top_overlap_takes_the_share_that_is_asked_for():
    maps = np.tile(np.arange(SIDE, 0, -1, dtype=np.float32), (N, SIDE, 1))
    assert f.top_overlap(maps, LEFT, share=0.25) == pytest.approx([0.5] * N)


@pytest.mark.parametrize("metric", [f.pointing_game, f.share_inside, f.top_overlap])
def test_nan_maps_and_empty_masks_are_nan_and_never_0(metric):
    maps = np.concatenate([NAN, np.ones((1, SIDE, SIDE)), KNOWN[:1]]).astype(np.float32)
    masks = np.stack([KNOWN[0], np.zeros((SIDE, SIDE), bool), KNOWN[0]])
    values = metric(maps, masks)
    assert np.isnan(values).tolist() == [True, True, False]
    assert values[2] == 1


@pytest.mark.parametrize("metric", [f.pointing_game, f.share_inside])
def test_maps_that_never_saw_the_model_score_the_share_of_the_area(metric):
    n = 600
    masks = np.repeat(LEFT[:1], n, axis=0)
    random = f.random_maps(n, SIDE, np.random.default_rng(0))
    assert f.area_share(LEFT).tolist() == [0.5] * N
    assert metric(f.uniform_maps(N, SIDE), KNOWN) == pytest.approx(f.area_share(KNOWN))
    assert metric(random, masks).mean() == pytest.approx(0.5, abs=0.06)  # 3 standard errors


def test_uniform_maps_overlap_as_pixels_drawn_by_lot_would():
    # A quarter of the film by lot: a quarter of it inside; 1/16 of 1/4 + 1/4 - 1/16.
    assert f.top_overlap(f.uniform_maps(N, SIDE), KNOWN) == pytest.approx([1 / 7] * N)


def test_masks_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="expected bool, square"):
        f.share_inside(f.uniform_maps(N, SIDE), LEFT.astype(np.uint8))
    with pytest.raises(ValueError, match=r"expected shape \(3, h, w\)"):
        f.share_inside(f.uniform_maps(2, SIDE), LEFT)


def test_region_masks_stack_at_one_size_and_join_into_bone(tmp_path, monkeypatch):
    def read(root, path):
        size = int(path)
        masks = {name: np.zeros((size, size), bool) for name in ("joint", "trabecular", "cortex")}
        masks["joint"][: size // 2] = masks["cortex"][:, : size // 2] = True
        return masks

    monkeypatch.setattr(f, "read_mask", read)
    masks = f.region_masks(tmp_path, ["32", "48"], size=SIDE)
    shapes = {name: mask.shape for name, mask in masks.items()}
    assert shapes == dict.fromkeys(("joint", "trabecular", "cortex", "bone"), (2, SIDE, SIDE))
    assert f.area_share(masks["bone"]).tolist() == [0.75, 0.75]


def test_a_corpus_of_real_films_has_no_region_masks(tmp_path):
    with pytest.raises(CorpusError, match="a simulated image's mask"):
        f.region_masks(tmp_path, ["Normal/Normal 1.jpg"])


# --- baselines


def test_the_blob_is_a_gaussian_in_the_middle():
    blob = f.centre_blob(2, 64, sigma=0.25)
    assert blob.shape == (2, 64, 64)
    assert np.array_equal(blob, blob[:, ::-1, ::-1])
    # One standard deviation, 16 pixels, from the centre at 32; columns 32 and 48 are 0.5 to 16.5.
    assert blob[0, 32, 48] / blob[0, 32, 32] == pytest.approx(np.exp(-(16.5**2 - 0.5**2) / 512))


def test_random_maps_are_smooth_and_repeatable():
    maps = f.random_maps(5, 64, np.random.default_rng(3))
    assert np.array_equal(maps, f.random_maps(5, 64, np.random.default_rng(3)))
    assert (maps >= 0).all()
    assert np.abs(np.diff(maps, axis=1)).max() <= maps.max() / 16 * 1.001  # 16 pixels a cell


# --- curves


def test_area_under_deletion_in_closed_form(known):
    maps = np.stack([KNOWN[0], ~KNOWN[0], np.ones((SIDE, SIDE))]).astype(np.float32)
    curves = f.deletion(known, WHITE, maps, target=0, steps=16, fill=0)
    # Removing k of the rectangle's quarter leaves 1 - k / quarter of its mean: 0 after 4 steps.
    assert curves[0] == pytest.approx([1, 0.75, 0.5, 0.25] + [0] * 13, abs=1e-6)
    assert curves[1] == pytest.approx([1] * 13 + [0.75, 0.5, 0.25, 0], abs=1e-6)
    areas = f.area(curves)
    assert areas[:2] == pytest.approx([1 / 8, 7 / 8])
    assert areas[2] == pytest.approx(0.5, abs=0.03)  # a uniform map removes pixels by lot


def test_insertion_mirrors_deletion(known):
    maps = f.random_maps(N, SIDE, np.random.default_rng(0))
    maps[0] = KNOWN[0]
    inserted = f.insertion(known, WHITE, maps, target=0, steps=16, fill=0)
    assert inserted[0] == pytest.approx([0, 0.25, 0.5, 0.75] + [1] * 13, abs=1e-6)
    removed = f.deletion(known, WHITE, maps, target=0, steps=16, fill=0)
    assert inserted == pytest.approx(1 - removed, abs=1e-6)


@pytest.mark.parametrize("name", ["random map", "centre blob", "uniform map"])
def test_maps_that_never_saw_the_model_have_poor_curves(known, name):
    maps = f.baselines(N, SIDE)[name]
    assert f.area(f.deletion(known, WHITE, maps, 0, fill=0)).mean() > 0.3  # 0.125 is perfect
    assert f.area(f.insertion(known, WHITE, maps, 0, fill=0)).mean() < 0.7  # 0.875 is


def test_signed_maps_lose_what_speaks_against_last(known):
    maps = np.where(KNOWN, -1, 0).astype(np.float32)
    assert f.area(f.deletion(known, WHITE, maps, 0, fill=0)) == pytest.approx([7 / 8] * N)


def test_flat_maps_have_no_curve_and_leave_the_others_alone(known):
    maps = np.concatenate([NAN, KNOWN[:2]]).astype(np.float32)
    areas = f.area(f.deletion(known, WHITE, maps, target=0, fill=0))
    assert np.isnan(areas).tolist() == [True, False, False]
    assert np.isnan(f.deletion(known, WHITE, np.repeat(NAN, N, axis=0), target=0)).all()


def test_the_default_fill_is_the_blurred_film(known):
    stripes = np.zeros_like(WHITE)
    stripes[:, :, ::4] = 200
    curves = f.deletion(known, stripes, KNOWN.astype(np.float32), target=0)
    blank = f.deletion(known, WHITE, KNOWN.astype(np.float32), target=0)
    assert curves[:, -1] == pytest.approx([50 / 255] * N, abs=0.02)  # its mean: no stripe, no black
    assert blank == pytest.approx(np.ones_like(blank))  # there is nothing to blur


def test_counts_below_one_are_refused(known):
    rng = np.random.default_rng(0)
    wrong = {
        "steps": lambda: f.deletion(known, WHITE, np.ones((1, 4, 4), np.float32), 0, steps=0),
        "stages": lambda: f.randomisation_cascade(edges, known, WHITE, 0, stages=0),
        "cells": lambda: f.random_maps(2, 8, rng, cells=0),
    }
    for name, make in wrong.items():
        with pytest.raises(ValueError, match=f"{name}: expected at least 1, found 0"):
            make()
    with pytest.raises(ValueError, match="cells: expected at least 1, found -2"):
        f.best_share(np.ones((1, 8, 8), bool), -2)


def test_an_unknown_fill_is_refused(known):
    with pytest.raises(ValueError, match="'blur' or a grey level, found 'noise'"):
        f.deletion(known, WHITE, f.uniform_maps(N, SIDE), fill="noise")


def test_targets_are_the_predicted_class_or_one_an_image(known):
    assert f.target_classes(known, WHITE).tolist() == [0, 0, 0]
    curves = f.deletion(known, WHITE, KNOWN.astype(np.float32), target=[0, 1, 0], fill=0)
    assert curves[:, 0] == pytest.approx([1, 0, 1], abs=1e-6)


# --- average drop


def test_average_drop_and_increase_of_hand_made_maps(known):
    half = rectangle((8, 16), (0, 16))[0]
    maps = np.stack([KNOWN[0], half, ~KNOWN[0]]).astype(np.float32)
    drop, increase = f.average_drop(known, WHITE, 5 * maps, target=0, fill=0)
    assert drop == pytest.approx([0, 0.5, 1], abs=1e-6)
    assert increase.tolist() == [0, 0, 0]
    grey = np.full_like(WHITE, 51)  # the other class: 1 - 0.2, and 1 once the rectangle is hidden
    drop, increase = f.average_drop(known, grey, maps, target=1, fill=0)
    assert drop == pytest.approx([0, 0, 0], abs=1e-6)
    assert increase.tolist() == [0, 1, 1]


def test_maps_that_never_saw_the_model_drop_except_the_one_that_keeps_everything(known):
    drops = {
        name: f.average_drop(known, WHITE, maps, target=0, fill=0).drop.mean()
        for name, maps in f.baselines(N, SIDE).items()
    }
    assert drops["random map"] > 0.4
    assert drops["centre blob"] > 0.4
    assert drops["uniform map"] == pytest.approx(0)  # as the docstring warns


def test_maps_that_show_nothing_have_no_drop(known):
    maps = np.concatenate([NAN, 0 * NAN, np.nan_to_num(NAN), KNOWN[:1]]).astype(np.float32)
    drop, increase = f.average_drop(known, WHITE[[0, 0, 0, 0]], maps, target=0)
    assert np.isnan(drop).tolist() == np.isnan(increase).tolist() == [True, True, True, False]


# --- similarity of maps


def test_agreement_is_of_ranks(films):
    maps = films[..., 0].astype(np.float32) + edges(None, films, None) / 1000
    assert f.agreement(maps, np.sqrt(maps)) == pytest.approx([1] * 4)
    assert f.agreement(maps, -maps) == pytest.approx([-1] * 4)
    # Indicators of two disjoint quarters: -(1/4) / (3/4).
    other = rectangle((8, 24), (16, 32)).astype(np.float32)
    assert f.agreement(KNOWN.astype(np.float32), other) == pytest.approx([-1 / 3] * N)


def test_agreement_of_maps_that_know_nothing_of_each_other_is_nil():
    a, b = (f.random_maps(200, SIDE, np.random.default_rng(seed)) for seed in (1, 2))
    assert f.agreement(a, b).mean() == pytest.approx(0, abs=0.06)


def test_agreement_compares_maps_of_different_sizes_as_they_are_shown():
    small = np.random.default_rng(0).random((N, 3, 3)).astype(np.float32)
    assert f.agreement(small, f.resized(small, 64)) == pytest.approx([1] * N, abs=1e-3)


def test_flat_maps_agree_with_nothing():
    flat = np.concatenate([NAN, np.ones((2, SIDE, SIDE))]).astype(np.float32)
    random = f.random_maps(N, SIDE, np.random.default_rng(0))
    assert np.isnan(f.agreement(flat, random)).all()
    assert np.isnan(f.similarity(flat, random)).tolist()[0]


def test_agreement_table_leaves_flat_maps_out():
    random = f.random_maps(N, SIDE, np.random.default_rng(0))
    holed = np.concatenate([NAN, random[1:]])
    table = f.agreement_table({"a": random, "b": -holed})
    assert table.loc["a", "a"] == pytest.approx(1)
    assert table.loc["a", "b"] == table.loc["b", "a"] == pytest.approx(-1)


def test_similarity_is_1_for_scaled_copies_and_low_for_others():
    a, b = (f.random_maps(8, SIDE, np.random.default_rng(seed)) for seed in (1, 2))
    assert f.similarity(a, 3 * a + 1) == pytest.approx([1] * 8, abs=1e-4)
    assert f.similarity(a, b).mean() < 0.5


# --- is the map about the model?


def test_the_cascade_catches_an_edge_detector_and_grad_cam_falls(network, films):
    before = network.get_weights()
    gradcam = partial(grad_cam, layer="second_relu", flat="nan")
    table = f.randomisation_cascade(gradcam, network, films, stages=3)
    means = table.groupby("stage")[["spearman", "ssim"]].mean()
    assert means.loc[0].to_numpy() == pytest.approx([1, 1])
    assert (means.iloc[1:] < 0.8).all(axis=None)
    blind = f.randomisation_cascade(edges, network, films, target=0, stages=3)
    assert blind[["spearman", "ssim"]].to_numpy() == pytest.approx(1)
    assert all(map(np.array_equal, before, network.get_weights()))


def test_the_cascade_names_its_stages_from_the_top_down(network, films):
    table = f.randomisation_cascade(edges, network, films, stages=3)
    stages = table.drop_duplicates("stage")[["stage", "layer", "layers"]]
    # Five layers with weights: 1, sqrt(5) and 5 of them.
    expected = [["none", 0], ["logits", 1], ["second_norm", 2], ["first_conv", 5]]
    assert stages.to_numpy().tolist() == [[n, *stage] for n, stage in enumerate(expected)]
    assert table["image"].tolist() == [0, 1, 2, 3] * 4


def test_each_stage_loses_its_layers_and_keeps_the_rest(network, films):
    seen = []

    def explain(model, images, target):
        seen.append([layer.get_weights() for layer in f._leaves(model) if layer.weights])
        return edges(model, images, target)

    f.randomisation_cascade(explain, network, films, stages=3)
    whole = seen[0]
    pairs = [zip(whole, now, strict=True) for now in seen]
    changed = [[not all(map(np.array_equal, *pair)) for pair in each] for each in pairs]
    assert changed[:2] == [[False] * 5, [False] * 4 + [True]]
    assert changed[2:] == [[False] * 3 + [True] * 2, [True] * 5]
    values = [[[np.sort(w.ravel()).tolist() for w in layer] for layer in now] for now in seen]
    assert values[0] == values[-1]
    pairs = [set(zip(*(w.tolist() for w in now[1]), strict=True)) for now in (seen[0], seen[-1])]
    assert pairs[0] == pairs[1]  # a channel keeps its own scale, offset, mean and variance


def test_the_class_explained_stays_that_of_the_whole_model(network, films):
    targets = []

    def explain(model, images, target):
        targets.append(target.tolist())
        return edges(model, images, target)

    f.randomisation_cascade(explain, network, films, stages=2)
    assert targets == [f.target_classes(network, films).tolist()] * 3


def test_flip_consistency_of_a_method_that_moves_along_and_one_that_stays(known, films):
    def stays(model, images, target):
        return np.repeat(KNOWN[:1], len(images), axis=0).astype(np.float32)

    assert f.flip_consistency(edges, known, films) == pytest.approx([1] * 4)
    assert f.flip_consistency(stays, known, films) == pytest.approx([-1 / 3] * 4)


# --- tables


def test_mean_interval_leaves_flat_maps_out_and_counts_the_rest():
    row = f.mean_interval([1, np.nan, 3], ["a", "a", "a"], resamples=20)
    assert row == {"value": 2, "low": 2, "high": 2, "n": 2}
    spread = f.mean_interval([0, 0, 1, 1], ["a", "a", "b", "b"], resamples=200)
    assert (spread["value"], spread["low"], spread["high"]) == (0.5, 0, 1)
    nothing = f.mean_interval([np.nan, np.nan], ["a", "b"], resamples=20)
    assert np.isnan([nothing["value"], nothing["low"], nothing["high"]]).all()


def test_compare_takes_paired_differences():
    blob = np.array([0.1, 0.5, 0.9, 0.3])
    values = {"method": blob + 0.2, "centre blob": blob}
    table = f.compare(values, np.arange(4), resamples=100)
    columns = ["difference", "difference_low", "difference_high"]
    assert table.loc["method", columns].tolist() == pytest.approx([0.2] * 3)
    assert table.loc["centre blob", "difference"] == 0
    with pytest.raises(ValueError, match="expected one of method, centre blob, found 'blob'"):
        f.compare(values, np.arange(4), against="blob")


def test_intervals_of_differences_widen_with_their_number():
    values = {"centre blob": np.zeros(40), "one": np.random.default_rng(0).normal(size=40)}
    alone = f.compare(values, np.arange(40)).loc["one"]
    ten = values | {f"other {k}": values["one"] for k in range(9)}
    among_ten = f.compare(ten, np.arange(40)).loc["one"]
    expected = f.mean_interval(values["one"], np.arange(40), confidence=1 - 0.05 / 10)
    assert alone["difference_low"] == alone["low"]  # one comparison: 95 %
    assert among_ten["difference_low"] == expected["low"] < alone["difference_low"]
    assert among_ten["difference_high"] == expected["high"] > alone["difference_high"]
    assert among_ten["low"] == alone["low"]


def test_measure_puts_a_perfect_map_above_the_blob_and_random_maps_not():
    n = 12
    mask = np.repeat(rectangle((0, 16), (0, 16), 1), n, axis=0)
    maps = mask.astype(np.float32)
    maps[0] = np.nan
    table = f.measure({"perfect": maps}, {"corner": mask}, np.arange(n) // 2, resamples=100)
    assert len(table) == 3 * 4
    rows = table.set_index(["measure", "maps"])
    for name in ("pointing_game", "share_inside", "top_overlap"):
        assert rows.loc[(name, "perfect"), ["value", "n"]].tolist() == [1, n - 1]
        assert rows.loc[(name, "perfect"), "difference_low"] > 0.5
        assert rows.loc[(name, "random map"), "value"] < 0.5
    assert rows.loc[("share_inside", "uniform map"), "value"] == pytest.approx(0.25)
