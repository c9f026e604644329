"""The phantom: its promises about geometry, bone loss, masks, nuisance and bad input."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.transform import resize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from osteo_utils import phantom
from osteo_utils.phantom import MASKS, Setting, sample_setting, simulate_knee
from osteo_utils.registry import class_of_t_score

PLAIN = Setting(noise=0.0)
BODY = phantom.Anatomy()


def knee(t_score, size=128, seed=0, setting=PLAIN, anatomy=BODY):
    return simulate_knee(t_score, np.random.default_rng(seed), size, setting, anatomy)


def strut_energy(image, vertical, mask):
    """Spread of a second derivative across struts of one direction, within the mask."""
    order, sigma = ((0, 2), (3.0, 1.0)) if vertical else ((2, 0), (1.0, 3.0))
    return gaussian_filter(image.astype(float), sigma, order=order)[mask].std()


@settings(max_examples=15, deadline=None)
@given(
    t_score=st.floats(*phantom.T_SCORE_RANGE),
    size=st.integers(32, 150),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_knee_is_whole(t_score, size, seed):
    radiograph = simulate_knee(t_score, np.random.default_rng(seed), size)
    assert radiograph.image.shape == (size, size)
    assert radiograph.image.dtype == np.uint8
    assert radiograph.image.flags.c_contiguous
    assert np.ptp(radiograph.image) > 100
    assert tuple(radiograph.masks) == MASKS
    for mask in radiograph.masks.values():
        assert mask.shape == (size, size)
        assert mask.dtype == bool
        assert mask.any()
    assert sum(mask.astype(int) for mask in radiograph.masks.values()).max() == 1  # disjoint
    assert radiograph.facts["t_score"] == t_score
    assert all(type(value) in (float, str, bool) for value in radiograph.facts.values())


def test_facts_hold_everything_drawn():
    setting = sample_setting(np.random.default_rng(1))
    anatomy = phantom.sample_anatomy(np.random.default_rng(2))
    facts = knee(-1.0, setting=setting, anatomy=anatomy).facts
    assert asdict(setting).items() <= facts.items()
    assert asdict(anatomy).items() <= facts.items()
    assert {"cortical_thickness_mm", "vertical_fraction", "horizontal_fraction"} <= facts.keys()


def test_seed_fixes_everything():
    first, again, other = (simulate_knee(-1.5, np.random.default_rng(s), 96) for s in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert first.facts == again.facts
    assert all(np.array_equal(first.masks[m], again.masks[m]) for m in MASKS)
    assert not np.array_equal(first.image, other.image)


def test_knees_from_one_generator_differ():
    rng = np.random.default_rng(0)
    one, two = (simulate_knee(-1, rng, 64, PLAIN, BODY).image for _ in range(2))
    assert not np.array_equal(one, two)


def test_only_bone_changes_with_the_t_score():
    strong, weak = knee(1.0), knee(-4.0)
    columns = np.arange(128)[None, :]
    soft = (columns < 30) & (strong.image > 20)  # medial of the bones
    assert soft.sum() > 500
    # The display curve may move; the order of the soft tissue's grey levels may not.
    assert np.corrcoef(strong.image[soft], weak.image[soft])[0, 1] > 0.98
    air = (columns < 4) | (columns > 123)
    assert np.ptp([k.image[np.broadcast_to(air, (128, 128))] for k in (strong, weak)]) < 15
    inside = strong.masks["trabecular"]
    fine = [k.image - gaussian_filter(k.image.astype(float), 4) for k in (strong, weak)]
    assert np.corrcoef(fine[0][inside], fine[1][inside])[0, 1] < 0.9


def test_cortex_thins_and_fractions_fall():
    knees = [knee(t) for t in (1.0, -0.5, -1.5, -2.5, -3.5, -4.5)]
    for fact in ("cortical_thickness_mm", "vertical_fraction", "horizontal_fraction"):
        assert np.all(np.diff([k.facts[fact] for k in knees]) < 0), fact
    areas = [k.masks["cortex"].sum() for k in knees]
    assert np.all(np.diff(areas) < 0)
    assert areas[-1] < 0.7 * areas[0]


def test_horizontal_trabeculae_go_first():
    strong, weak = knee(0.5, 224), knee(-3.5, 224)
    inside = weak.masks["trabecular"] & strong.masks["trabecular"]
    left = {}
    for vertical in (True, False):
        energies = [strut_energy(each.image, vertical, inside) for each in (weak, strong)]
        left[vertical] = energies[0] / energies[1]
    assert left[False] < 0.7 * left[True]
    facts = strong.facts, weak.facts
    names = ("vertical_fraction", "horizontal_fraction")
    vertical, horizontal = (facts[1][name] / facts[0][name] for name in names)
    assert horizontal < 0.5 * vertical


def test_left_is_the_mirror_of_right():
    setting = replace(sample_setting(np.random.default_rng(3)), marker_style="none")
    left = knee(-1.0, setting=replace(setting, side="L"))
    right = knee(-1.0, setting=replace(setting, side="R"))
    assert np.array_equal(left.image, right.image[:, ::-1])
    assert all(np.array_equal(left.masks[m], right.masks[m][:, ::-1]) for m in MASKS)


def test_the_same_knee_at_two_sizes():
    small, large = knee(-1.5, 128), knee(-1.5, 384)
    shrunk = resize(large.image, (128, 128), anti_aliasing=True, preserve_range=True)
    inside = small.masks["trabecular"]
    assert np.corrcoef(small.image.ravel(), shrunk.ravel())[0, 1] > 0.98
    assert np.corrcoef(small.image[inside], shrunk[inside])[0, 1] > 0.85


def test_pose_moves_the_masks_with_the_image():
    at_rest = knee(-1.0).masks["joint"]
    moved = knee(-1.0, setting=replace(PLAIN, shift_y_mm=10.0)).masks["joint"]
    rows = [np.nonzero(mask)[0].mean() for mask in (at_rest, moved)]
    assert rows[1] - rows[0] == pytest.approx(10 / 150 * 128, abs=0.5)


def test_collimation_blackens_the_border_and_clips_the_masks():
    open_field = knee(-1.0)
    setting = replace(PLAIN, collimation_bottom_mm=40.0, collimation_deg=2.0)
    collimated = knee(-1.0, setting=setting)
    assert collimated.image[-20:].max() == 0
    assert not any(mask[-20:].any() for mask in collimated.masks.values())
    assert open_field.masks["cortex"][-20:].any()


@pytest.mark.parametrize("style", phantom.MARKER_STYLES)
def test_marker_is_where_the_setting_says(style):
    setting = replace(PLAIN, marker_style=style, marker_x=0.1, marker_y=0.15)
    plain, marked = knee(-1.0), knee(-1.0, setting=setting)
    rows, columns = np.nonzero(plain.image != marked.image)
    if style == "none":
        assert rows.size == 0
    else:
        assert abs(rows.mean() - 0.15 * 128) < 3
        assert abs(columns.mean() - 0.9 * 128) < 3


def test_sampled_settings_vary_and_keep_the_side_asked_for():
    rng = np.random.default_rng(0)
    drawn = [sample_setting(rng) for _ in range(60)]
    assert {s.side for s in drawn} == {"L", "R"}
    assert {s.marker_style for s in drawn} == set(phantom.MARKER_STYLES)
    assert {sample_setting(rng, "R").side for _ in range(5)} == {"R"}


@pytest.mark.parametrize("t_score", [float("nan"), float("inf"), -6.01, 4.01, "-1", None])
def test_bad_t_score(t_score):
    with pytest.raises(ValueError, match="T-score: expected a number from"):
        simulate_knee(t_score, np.random.default_rng(0))


@pytest.mark.parametrize("size", [31, 0, -5, 128.0, "128", True, None])
def test_bad_size(size):
    with pytest.raises(ValueError, match="size: expected an integer of at least 32"):
        simulate_knee(-1.0, np.random.default_rng(0), size)


def test_bad_side_and_marker_style():
    with pytest.raises(ValueError, match="side: expected 'L' or 'R', found 'left'"):
        sample_setting(np.random.default_rng(0), "left")
    with pytest.raises(ValueError, match="side: expected"):
        knee(-1.0, setting=Setting(side="left"))
    with pytest.raises(ValueError, match="marker style: expected one of none, bare"):
        knee(-1.0, setting=Setting(marker_style="neon"))


def texture_features(image):
    """Logarithm of the strut energies over a coarse grid: bone as texture, not as brightness."""
    grey = image.astype(float)
    grey /= gaussian_filter(grey, 6) + 10
    side = len(image) // 6
    features = []
    for vertical in (True, False):
        order, sigma = ((0, 2), (2.0, 0.8)) if vertical else ((2, 0), (0.8, 2.0))
        filtered = gaussian_filter(grey, sigma, order=order)
        for row in range(6):
            block = filtered[row * side : (row + 1) * side, 2 * side : 4 * side]
            features.append(np.log(block.std() + 1e-6))
    return features


def test_histogram_tells_far_less_than_texture():
    rng = np.random.default_rng(0)
    t_scores = rng.normal(-1.6, 1.5, 240).clip(-5, 3)
    images = [simulate_knee(float(t), rng, 96).image for t in t_scores]
    labels = class_of_t_score(t_scores + rng.normal(0, 0.25, 240))
    regression = LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000)
    model = make_pipeline(StandardScaler(), regression)
    tables = {
        "histogram": [np.histogram(i, 32, (0, 256))[0] / i.size for i in images],
        "mean and spread": [(i.mean(), i.std()) for i in images],
        "texture": [texture_features(i) for i in images],
    }
    reached = {
        name: balanced_accuracy_score(labels, cross_val_predict(model, np.array(x), labels, cv=4))
        for name, x in tables.items()
    }
    assert reached["histogram"] < 0.5, reached
    assert reached["mean and spread"] < 0.45, reached
    assert reached["texture"] > reached["histogram"] + 0.15, reached
