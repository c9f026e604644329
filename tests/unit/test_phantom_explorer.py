"""The phantom explorer: what it shows is the phantom of the course, state by state."""

import json
import zlib

import numpy as np
import pytest

from osteo_utils.phantom.knee import MASKS, Anatomy, Layers, Setting, knee_layers, simulate_knee
from osteo_utils.registry import class_of_t_score
from osteo_utils.widgets import PhantomExplorer

SEED = 3
POSES = [{}, {"rotation_deg": 5.0, "shift_y_mm": -6.0}, {"scale": 1.55}, {"kvp": 75.0}]


@pytest.fixture(scope="module")
def widget():
    return PhantomExplorer(SEED, Anatomy(), size=160)  # for which the bounds below were measured


@pytest.fixture(autouse=True)
def at_the_start(widget):
    """Every test begins with the state of a new widget."""
    state = PhantomExplorer.class_traits(sync=True)
    for name in ("t_score", "exposure", "kvp", "rotation_deg", "scale", "shift_y_mm"):
        setattr(widget, name, state[name].default_value)
    widget.processed, widget.mask, widget.compare = True, "none", False


def simulated(widget):
    rng = np.random.default_rng(SEED)
    return simulate_knee(widget.t_score, rng, widget.content["size"], widget.setting(), Anatomy())


def unpacked(widget):
    """The layers by hand from the bytes: planes, signs, sums across and down."""
    side, names = widget.content["side"], widget.content["layers"]
    planes = np.frombuffer(zlib.decompress(widget.layers), np.uint8).astype(int)
    low, high = planes.reshape(2, len(names), side, side)
    folded = low + 256 * high
    signed = np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    return dict(zip(names, signed.cumsum(axis=1).cumsum(axis=2), strict=True))


def test_bytes_hold_the_layers_of_the_phantom_to_half_a_level(widget):
    sent, content = unpacked(widget), widget.content
    axis = (np.arange(content["side"]) + 0.5 - content["side"] / 2) * content["step"]
    texture = int(np.random.default_rng(SEED).integers(2**63, size=2)[0])
    x, y = np.meshgrid(axis.astype(np.float32), axis.astype(np.float32))
    true = knee_layers(x, y, Setting(), Anatomy(), texture)
    assert tuple(sent) == Layers._fields
    for level, (name, counts) in zip(content["levels"], sent.items(), strict=True):
        layer = np.asarray(getattr(true, name), float)
        bone = name in ("femur", "tibia", "fibula")
        seen = (layer > -2.9) & (layer < 25.9) if bone else layer > -1.2
        np.testing.assert_allclose(level * counts[seen], layer[seen], atol=0.51 * level)


@pytest.mark.parametrize("pose", POSES, ids=str)
@pytest.mark.parametrize("t_score", [1.0, -1.5, -4.0])
def test_picture_is_the_film_of_the_course(widget, pose, t_score):
    for name, value in ({"t_score": t_score} | pose).items():
        setattr(widget, name, value)
    film, shown = (each.astype(float) for each in (simulated(widget).image, widget.picture()))
    at_home = not pose or "kvp" in pose  # where pixels and knots of the layers coincide
    assert np.corrcoef(film.ravel(), shown.ravel())[0, 1] > (0.9995 if at_home else 0.995)
    assert np.abs(film - shown).mean() < (0.7 if at_home else 3)


@pytest.mark.parametrize("pose", POSES[:3], ids=str)
def test_masks_are_those_of_the_course(widget, pose):
    for name, value in ({"t_score": -2.0} | pose).items():
        setattr(widget, name, value)
    for name in MASKS:
        widget.mask = name
        mask, shown = simulated(widget).masks[name], widget.outlined()
        assert (mask & shown).sum() / (mask | shown).sum() > (0.85 if pose else 0.95)
    widget.mask = "none"
    assert not widget.outlined().any()


def test_facts_of_every_place_of_the_slider_are_those_of_the_phantom(widget):
    content = widget.content
    assert content["class_of"] == class_of_t_score(content["t_scores"]).tolist()
    at = content["t_scores"].index(-2.5)
    assert content["classes"][content["class_of"][at]] == "Osteoporosis"
    assert content["classes"][content["class_of"][at + 1]] == "Osteopenia"
    widget.t_score = -2.5
    facts = simulated(widget).facts
    sent = dict(zip(content["facts"], content["truth"][at], strict=True))
    for name, value in widget.facts().items():
        assert sent[name] == pytest.approx(facts[name], rel=1e-6)
        assert value == facts[name]


def test_processing_keeps_the_mean_where_the_detector_does_not(widget):
    def means():
        return [widget.picture(t).mean() for t in (2.0, -5.0)]

    healthy, brittle = means()
    assert abs(healthy - brittle) < 2
    widget.processed = False
    healthy, brittle = means()
    assert healthy - brittle > 10


def test_twice_the_exposure_darkens_the_picture_as_detected_by_a_fixed_step(widget):
    widget.processed = False
    before = widget.picture().astype(float)
    widget.exposure = 2.0
    after = widget.picture().astype(float)
    leg = (before > 50) & (after > 5)
    # ln 2 of the 6 that the grey scale spans is 29.5 of 255 levels
    assert np.mean(before[leg] - after[leg]) == pytest.approx(29.5, abs=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_exposure_alone_moves_the_brightness_further_than_all_t_scores_do(seed):
    widget = PhantomExplorer(seed, size=64, processed=False)
    by_bone = np.ptp([widget.picture(t).mean() for t in (2.0, -5.0)])
    by_dose = []
    for widget.exposure in (1 / 32, 4.0):
        by_dose.append(widget.picture().mean())
    assert np.ptp(by_dose) > by_bone


def test_less_exposure_is_more_noise_and_one_state_one_picture(widget):
    usual, again = widget.picture(), widget.picture()
    assert (usual == again).all()
    roughness = []
    for widget.exposure in (4.0, 1.0, 1 / 32):
        roughness.append(np.abs(np.diff(widget.picture().astype(float))).mean())
    assert roughness == sorted(roughness)
    assert roughness[2] > 1.3 * roughness[1]


def test_picture_of_another_t_score_is_that_of_the_slider_there(widget):
    other = widget.picture(0.5)
    widget.t_score = 0.5
    assert (widget.picture() == other).all()


def test_what_is_sent_makes_the_same_widget_again(widget):
    content = json.loads(json.dumps(widget.content, sort_keys=True))
    again = PhantomExplorer(content["seed"], Anatomy(*content["anatomy"]), content["size"])
    assert (again.layers, again.noise) == (widget.layers, widget.noise)
    assert again.content == widget.content
    assert not [key for key, value in content.items() if isinstance(value, dict)]


def test_state_at_the_start_can_be_set_and_is_that_of_the_reset():
    widget = PhantomExplorer(size=64, t_score=-3.2, mask="cortex")
    assert widget.content["start"] == [-3.2, 1.0, 62.0, 0.0, 1.2, 0.0, True, "cortex", False]


def test_data_leave_room_for_the_rest_of_a_chapter(widget):
    sent = len(widget.layers) + len(widget.noise)
    assert sent * 4 / 3 + len(json.dumps(widget.content)) < 130_000


@pytest.mark.parametrize("size", [63, 65, 32])
def test_a_size_that_has_no_halves_is_refused(size):
    with pytest.raises(ValueError, match="even number of pixels"):
        PhantomExplorer(size=size)


def test_module_and_style_travel_with_the_widget_and_ask_no_other_host(widget):
    state = widget.get_state()
    assert "export default { render }" in state["_esm"]
    assert ":focus-visible" in state["_css"]
    for text in (state["_esm"], state["_css"]):
        assert "http" not in text
        assert "import " not in text
