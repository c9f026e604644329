"""From a film to an answer and its maps, as command line, app, widget and export share it."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from matplotlib import colormaps
from tiny_runs import make_run, png

from osteo_utils import inference
from osteo_utils.data.images import fit_square
from osteo_utils.data.novelty import Novelty
from osteo_utils.errors import ImageError
from osteo_utils.fingerprint import network_digests
from osteo_utils.formats.films import decode
from osteo_utils.inference import answer, example_film, explain, explain_vote
from osteo_utils.networks.models import build
from osteo_utils.networks.saved import load_model
from osteo_utils.overlay import flat_map, overlay, picture_of_map, saliency_map
from osteo_utils.registry import SIGNED_CMAP, last_conv_layers
from osteo_utils.runs import RunError
from osteo_utils.saliency.gradcam import METHODS, CamError, CamWarning, occlusion

FIRST = "VGG16, seed 0"


FILM = decode(png())


def test_a_folder_with_the_whole_disk_below_it_is_refused(tmp_path, monkeypatch):
    make_run(tmp_path, "vgg16", 32)
    monkeypatch.setattr(inference, "MAX_FOLDERS", 5)
    assert len(inference.find_runs(tmp_path)) == 1  # the folder, three more, and that of the run
    (tmp_path / "a").mkdir()
    with pytest.raises(RunError, match="Name the folder that holds the runs"):
        inference.find_runs(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not an image", png()[:60], b"x" * 50_000_001])
def test_a_bad_file_is_an_image_error_that_names_it(data):
    with pytest.raises(ImageError, match=r"knee\.png"):
        inference.uploaded_film(data, "knee.png")


def test_a_name_is_short_and_printable_and_the_bytes_decide():
    film = inference.uploaded_film(png(), "x" * 200 + "\n\x00.txt")
    assert len(film.name) == inference.NAME_SHOWN
    assert film.name.endswith("x.txt")
    assert (film.facts.format, film.facts.width, film.facts.height) == ("PNG", 40, 50)


@pytest.mark.parametrize("image", [FILM, FILM[:30]], ids=["tall", "wide"])
def test_an_answer_is_that_of_keras(members, image):
    said = answer(members, [image, FILM])
    for member, vote in zip(members, said.votes, strict=True):
        x = fit_square(image, member.size)[None, ..., None]
        np.testing.assert_allclose(vote[0], load_model(member.run).predict(x, verbose=0)[0], 1e-5)
    np.testing.assert_allclose(said.probabilities, np.mean(said.votes, axis=0))
    assert said.unlike == [None, None]  # these runs have no novelty.json


def test_many_films_are_answered_as_one_by_one(members):
    films = [decode(png(seed)) for seed in range(70)]
    alone = np.concatenate([answer(members[:1], [film]).probabilities for film in films])
    np.testing.assert_allclose(answer(members[:1], films).probabilities, alone, atol=1e-6)


def test_a_film_unlike_those_of_any_member_is_flagged(members):
    never, always = (Novelty(np.zeros(66), np.eye(66), t) for t in (np.inf, -1.0))
    first, second = (replace(member, novelty=never) for member in members)
    assert answer([first, second], [FILM, FILM]).unlike == [False, False]
    assert answer([first, replace(second, novelty=always)], [FILM]).unlike == [True]
    assert answer([first, members[1]], [FILM]).unlike == [False]


def test_a_network_that_is_none_of_the_course_comes_with_a_note_and_its_last_maps(members):
    assert "open only runs that you trained" in members[0].note
    assert members[0].layers == {"": "maps"}  # VGG16 has another of this name
    assert members[0].title == FIRST


def test_a_network_of_the_course_has_no_note_and_its_usual_layer(tmp_path):
    network = build("custom_cnn", 32, seed=1)
    facts = {"network": network_digests(network), "weights": None}
    member = inference.open_member(make_run(tmp_path, seed=1, trained=network, **facts))
    assert member.note == ""
    assert member.layers == {"": "block5_relu"}


def test_a_network_without_maps_answers_and_a_method_on_layers_says_why_it_cannot(tmp_path):
    pixels = keras.Input((32, 32, 1), dtype="uint8")
    vector = keras.layers.Rescaling(1 / 255)(keras.layers.Flatten()(pixels))
    network = keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(vector))
    member = inference.open_member(make_run(tmp_path, "my_own", trained=network))
    assert answer([member], [FILM]).probabilities.sum() == pytest.approx(1)
    (found,) = explain(member, [FILM], "occlusion", 1)[""]
    assert found.cam.shape == (32, 32)
    with pytest.raises(CamError, match="expected"):
        explain(member, [FILM], "grad_cam", 1)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_makes_a_map(members, method):
    (found,) = explain(members[0], [FILM], method, 2)[""]
    assert found.cam.shape in {(14, 14), (32, 32)}
    assert found.title.startswith(FIRST)


def test_each_film_is_explained_for_its_own_class_and_a_layer_can_be_named(members):
    films = [FILM, decode(png(1))]
    found = explain(members[0], films, "occlusion", [2, 1])[""]
    own = occlusion(members[0].network, members[0].pixels(films), target=[2, 1])
    np.testing.assert_array_equal([each.cam for each in found], own)
    with pytest.raises(CamError, match="maps"):
        explain(members[0], films, "grad_cam", 2, "nowhere")


def test_maps_of_a_vote_are_the_mean_and_the_members(members):
    mean, first, second = explain_vote(members, FILM, "grad_cam", 2)
    (alone,) = explain_vote(members[:1], FILM, "grad_cam", 2)
    np.testing.assert_array_equal(alone.cam, explain(members[0], [FILM], "grad_cam", 2)[""][0].cam)
    np.testing.assert_allclose(mean.cam, (first.cam + second.cam) / 2, rtol=1e-5)
    assert first.cam.sum() == pytest.approx(1, rel=1e-4)
    assert [first.title.split(",")[0], second.title.split(",")[0]] == ["VGG16", "VGG19"]


def test_a_fusion_has_a_map_for_each_branch_and_one_share_of_a_vote(members):
    branches = last_conv_layers("late_fusion", 32)
    pixels = keras.Input((32, 32, 1), dtype="uint8")
    small = keras.initializers.RandomUniform(0, 1e-3, seed=0)  # no flat map
    speaks = {"kernel_initializer": small}
    maps = [keras.layers.Conv2D(4, 5, name=name, **speaks)(pixels) for name in branches.values()]
    vector = keras.layers.GlobalAveragePooling2D()(keras.layers.Concatenate()(maps))
    network = keras.Model(pixels, keras.layers.Dense(3, activation="softmax", **speaks)(vector))
    info = members[0].run.info | {"model": "late_fusion", "maps": branches}
    run = replace(members[0].run, info=info)
    fused = inference.Member(run, network, None, inference.map_layers(run, network))
    found = explain(fused, [FILM], "layer_cam", 2)
    assert list(found) == ["vgg16", "inception_v3"]
    titles = [each.title.split(", ")[2] for (each,) in found.values()]
    assert titles == ["VGG16 branch", "InceptionV3 branch"]
    vote = explain_vote([members[0], fused], FILM, "layer_cam", 2)
    mean, alone, *two = (each.cam for each in vote)
    np.testing.assert_allclose(mean, alone / 2 + two[0] / 4 + two[1] / 4, rtol=1e-5)


def test_a_flat_map_is_told_and_not_drawn(members, recwarn):
    black = np.zeros((40, 40), np.uint8)
    (found,) = explain_vote(members[:1], black, "grad_cam", 0)
    assert found.peak is None
    assert np.isnan(found.cam).all()
    assert picture_of_map(black, "b", "Grad-CAM for Normal", found, "inferno", 0.5, 64) is None
    assert "speaks for Normal" in str(flat_map(found, "Grad-CAM", "Normal"))
    assert [str(each.message) for each in recwarn if each.category is CamWarning] == []


def test_a_map_says_where_it_is_strongest_and_shows_its_scale():
    film, found = np.full((8, 8), 100, np.uint8), saliency_map("M", np.float32([[0, 0], [0, 2]]))
    assert found.peak == (2, 0.75, 0.75)
    made = picture_of_map(film, "film", "Grad-CAM for Normal", found, "gray", 1.0, 64)
    assert "75% from the left and 75% from the top" in made.alt
    assert "from 0 to 2" in made.caption
    assert made.pixels.shape == (64 + 18, 64, 3)
    assert made.pixels[0, 0].tolist() == [0, 0, 0]
    assert made.pixels[63, -1].tolist() == [255, 255, 255]
    assert made.pixels[-1, [0, -1]].tolist() == [[0] * 3, [255] * 3]


def test_overlay_mixes_film_and_colour_by_hand():
    film, cam = np.full((4, 4), 100, np.uint8), np.array([[0, 2]], np.float32)
    dark, light = (np.array(colormaps["inferno"](v)[:3]) * 255 for v in (0.0, 1.0))
    half = overlay(film, cam, "inferno", 0.5)
    np.testing.assert_array_equal(half[:, 0], np.tile(np.rint(dark / 2 + 50), (4, 1)))
    np.testing.assert_array_equal(half[:, 3], np.tile(np.rint(light / 2 + 50), (4, 1)))


def test_a_signed_map_is_drawn_around_zero():
    cam = np.array([[-1, 0, 0.5]], np.float32)
    drawn = overlay(np.zeros((3, 3), np.uint8), cam, "inferno", 1.0)[0]
    table = colormaps[SIGNED_CMAP]
    expected = [np.rint(np.array(table(share)[:3]) * 255) for share in (0.0, 0.5, 0.75)]
    np.testing.assert_array_equal(drawn, expected)


def test_example_films_are_the_same_at_every_call_and_their_bytes_decide():
    first, again = example_film(-1.7), example_film(-1.7)
    assert (first.name, first.digest) == ("phantom, T-score -1.7", again.digest)
    assert first.facts.format == "PNG"
