import base64
import io
import json
import re
import shutil
from datetime import UTC, datetime

import ipywidgets
import keras
import numpy as np
import pytest
from PIL import Image
from tiny_films import encoded
from tiny_runs import make_run

from osteo_utils import inference
from osteo_utils.data.images import fit_square
from osteo_utils.data.novelty import REMARK, fit_novelty
from osteo_utils.overlay import overlay
from osteo_utils.phantom import simulate_knee
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import RunError
from osteo_utils.saliency import gradcam
from osteo_utils.widgets import LiveGradCam, live_gradcam
from osteo_utils.widgets.live_gradcam import OWN

SIZE = 32
RNG = np.random.default_rng(0)
KNEES = [simulate_knee(t, RNG, 64).image for t in RNG.uniform(-4, 1, 40)]
FILMS = {"first": KNEES[0], "second": KNEES[1]}


def network(seed):
    """A small stand-in for the custom CNN: positive weights, so that every class has a map."""
    keras.utils.set_random_seed(seed)
    positive = {"kernel_initializer": keras.initializers.RandomUniform(0, 0.3)}
    convolution = {"strides": 4, "activation": "relu", "padding": "same", **positive}
    inputs = keras.Input((SIZE, SIZE, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(4, 4, name="block3_relu", **convolution)(x)
    x = keras.layers.Conv2D(8, 4, name="block5_relu", **convolution)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, "softmax", **positive)(x))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    small = [fit_square(film, SIZE) for film in KNEES]
    first = make_run(root, trained=network(0), corpus="mine")
    fit_novelty(small[:25], small[25:]).save(first.folder)
    make_run(root, seed=1, trained=network(1))
    return root


@pytest.fixture
def live(runs):
    return LiveGradCam(runs, FILMS)


def png(pixels):
    return encoded(Image.fromarray(pixels))


def upload(live, data, name="knee.png"):
    facts = {"name": name, "type": "image/png", "size": len(data)}
    facts |= {"content": memoryview(data), "last_modified": datetime(2026, 1, 1, tzinfo=UTC)}
    seven = {name: {"metadata": {"name": name}, "content": data}}  # the shape of version 7
    value = seven if isinstance(live.upload.value, dict) else (facts,)
    live.upload.set_trait("value", value)


def asked(live, film):
    """What the chosen network says of a film, as the widget writes it."""
    model = network(int(live.run.label[-1]))
    p = np.asarray(model(fit_square(film, SIZE)[None, ..., None]))[0]
    return [f"{CLASS_NAMES[i]}: {p[i]:.2f}" for i in np.argsort(-p)]


def listed(live):
    return re.findall("<li>(.*?)</li>", live.text.value)


def alts(live):
    return re.findall('alt="([^"]*)"', live.picture.value)


def pictures(live):
    found = re.findall('base64,([^"]*)"', live.picture.value)
    return [Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB") for each in found]


# ---- what is shown -----------------------------------------------------------------------------


def test_every_run_is_offered_and_the_first_film_is_answered_at_once(live):
    names = [name for name, _ in live.run.options]
    assert names == ["mine/smoke/custom_cnn/seed0", "simulated/smoke/custom_cnn/seed1"]
    assert listed(live) == asked(live, FILMS["first"])
    assert live.status.value == ""
    assert "not a medical device" in live.children[-1].value


def test_text_follows_run_and_film(live):
    first = listed(live)
    live.film.value = "second"
    assert listed(live) == asked(live, FILMS["second"])
    live.run.value = live.run.options[1][1]
    assert listed(live) == asked(live, FILMS["second"]) != first


def test_pictures_say_what_they_show(live):
    live.target.value = 2
    x = fit_square(FILMS["first"], SIZE)[None, ..., None]
    cam = gradcam.grad_cam(network(0), x, target=2)[0]
    row, column = np.unravel_index(cam.argmax(), cam.shape)
    plain, mapped = alts(live)
    assert plain == "The radiograph first, without a map"
    assert mapped.startswith("Grad-CAM for Osteoporosis, in raw units: Custom CNN, seed 0,")
    place = f"strongest {column / 2 + 0.25:.0%} from the left and {row / 2 + 0.25:.0%} from the top"
    assert mapped.endswith(f", layer block5_relu, over first; {place}")
    assert f"from 0 to {cam.max():.2g}." in live.picture.value
    expected = overlay(fit_square(FILMS["first"], live_gradcam.SIDE), cam, "inferno", 0.5)
    difference = np.abs(np.asarray(pictures(live)[1], float)[: live_gradcam.SIDE] - expected)
    assert difference.mean() < 4  # WebP loses a little


def test_without_opacity_the_second_picture_is_the_film(live):
    live.opacity.value = 0
    film, mapped = (np.asarray(each, float) for each in pictures(live))
    assert np.abs(film - mapped[: len(film)]).mean() < 2


def test_usual_layer_comes_first_and_another_can_be_chosen(live):
    titles, names = zip(*live.layer.options, strict=True)
    assert (titles[0], names[0]) == ("block5_relu (usual)", "block5_relu")
    assert len(set(names)) == len(names)
    live.layer.value = "block3_relu"
    assert ", layer block3_relu, " in alts(live)[1]
    live.run.value = live.run.options[1][1]
    assert live.layer.value == "block5_relu"


def test_of_a_fusion_the_usual_layer_of_each_branch_comes_first(tmp_path):
    inputs = keras.Input((32, 32, 1), dtype="uint8")
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Reshape((32, 32, 1), name="grey")(keras.layers.Rescaling(1 / 255)(x))
    for name in ("custom_cnn_block5_relu", "between", "vgg16_block5_conv3", "end"):
        x = keras.layers.Conv2D(1, 3, padding="same", name=name)(x)
    answer = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(x))
    maps = {"custom_cnn": "custom_cnn_block5_relu", "vgg16": "vgg16_block5_conv3"}
    make_run(tmp_path, "custom_cnn+vgg16", trained=keras.Model(inputs, answer), maps=maps)
    names = [name for _, name in LiveGradCam(tmp_path, FILMS).layer.options]
    assert names == ["custom_cnn_block5_relu", "vgg16_block5_conv3", "end", "between", "grey"]


def test_a_network_that_is_none_of_the_course_is_shown_with_a_note(tmp_path):
    make_run(tmp_path, "my_own", trained=network(0))
    live = LiveGradCam(tmp_path, FILMS)
    assert "open only runs that you trained or whose maker you trust" in live.text.value
    assert live.layer.value == "block5_relu"
    assert len(alts(live)) == 2


def test_every_method_is_offered_and_those_on_pixels_need_no_layer(live):
    assert [name for _, name in live.method.options] == list(gradcam.METHODS)
    live.method.value = "occlusion"
    assert alts(live)[1].startswith("Occlusion for ")
    assert live.status.value == ""


def test_controls_have_labels_and_a_page_without_kernel_is_told(live):
    boxes = [box for box in live.children if isinstance(box, ipywidgets.Box)]
    controls = [control for box in boxes for control in box.children]
    descriptions = [control.description for control in controls]
    assert len(controls) == 8
    assert len(set(descriptions)) == 8
    assert all(descriptions)
    assert "needs a running kernel" in repr(live)


# ---- your own film -----------------------------------------------------------------------------


def test_an_upload_has_the_shape_of_ipywidgets_8_or_of_7_as_in_colab():
    eight = ({"name": "knee.png", "size": 3, "content": memoryview(b"abc")},)
    seven = {"knee.png": {"metadata": {"name": "knee.png", "size": 3}, "content": b"abc"}}
    assert live_gradcam._uploaded(eight) == ("knee.png", b"abc")
    assert live_gradcam._uploaded(seven) == ("knee.png", b"abc")


def test_an_upload_is_answered_and_nothing_is_written(live, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    upload(live, png(KNEES[5][:, :50]), "../../knee.png")
    assert live.film.value == OWN
    assert listed(live) == asked(live, KNEES[5][:, :50])
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_second_upload_takes_the_place_of_the_first(live):
    upload(live, png(KNEES[6]))
    before = live.picture.value
    upload(live, png(KNEES[7]))
    assert list(live.film.options) == ["first", "second", OWN]
    assert listed(live) == asked(live, KNEES[7])
    assert live.picture.value != before


def test_a_bad_file_is_a_line_of_text_and_the_widget_lives_on(live):
    before = live.text.value, live.picture.value
    upload(live, b"hello", "<img src=x>.png")
    assert "&lt;img src=x&gt;.png: expected an image" in live.status.value
    assert (live.text.value, live.picture.value) == before
    assert live.film.value == "first"
    upload(live, png(KNEES[8]))
    assert live.status.value == ""
    assert listed(live) == asked(live, KNEES[8])


def test_a_huge_file_is_refused_unread(live, monkeypatch):
    monkeypatch.setattr(inference, "MAX_UPLOAD_BYTES", 100)
    upload(live, png(KNEES[8]))
    assert "expected at most 100 bytes, found" in live.status.value
    assert OWN not in live.film.options


def test_a_film_of_another_kind_is_remarked_where_the_run_can_tell(live):
    assert REMARK not in live.text.value
    upload(live, png(np.random.default_rng(3).integers(0, 256, (64, 64), np.uint8)))
    assert REMARK in live.text.value
    live.run.value = live.run.options[1][1]  # has no novelty.json
    assert REMARK not in live.text.value


# ---- trouble, and work done once ---------------------------------------------------------------


def test_a_flat_map_is_told_and_the_probabilities_stay(live, monkeypatch):
    def flat(*_, **__):
        raise gradcam.CamError("image 0", "a map that varies", "none", "Train it.")

    monkeypatch.setitem(gradcam.METHODS, "layer_cam", flat)
    live.method.value = "layer_cam"
    assert 'role="alert"' in live.status.value
    assert "expected a map that varies" in live.status.value
    assert live.picture.value == ""
    assert listed(live) == asked(live, FILMS["first"])
    live.method.value = "grad_cam"
    assert live.status.value == ""
    assert len(alts(live)) == 2


def test_a_run_with_another_class_order_is_refused_in_words(runs, tmp_path):
    good, bad = tmp_path / "seed0", tmp_path / "turned"
    for folder in (good, bad):
        shutil.copytree(runs / "mine" / "smoke" / "custom_cnn" / "seed0", folder)
    info = json.loads((bad / "run.json").read_text())
    (bad / "run.json").write_text(json.dumps(info | {"class_names": list(CLASS_NAMES)[::-1]}))
    live = LiveGradCam(tmp_path, FILMS)
    live.run.value = bad
    assert "expected the class order" in live.status.value
    assert live.text.value == live.picture.value == ""
    live.run.value = good
    assert live.status.value == ""
    assert listed(live) == asked(live, FILMS["first"])


def test_how_a_map_is_drawn_does_not_make_it_anew(live, monkeypatch):
    before, shown = live._map.cache_info().misses, live.picture.value
    live.opacity.value = 80
    live.colours.value = "viridis"
    assert live.picture.value != shown
    assert live._map.cache_info().misses == before == 1
    assert live._member.cache_info().misses == 1


def test_no_runs_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match=r"found none\. Train a network first"):
        LiveGradCam(tmp_path)


def test_phantoms_are_there_without_a_corpus(runs):
    live = LiveGradCam(runs)
    assert len(live.film.options) == 3
    assert len(alts(live)) == 2
