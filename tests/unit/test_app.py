"""The app: what it computes, its report, and the page in Streamlit's own test harness."""

import json
import os
import re
import shutil
import sys
import tomllib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import keras
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from streamlit.testing.v1 import AppTest
from tiny_runs import make_run

from osteo_utils import course
from osteo_utils.cli import NOTICE
from osteo_utils.data.images import decode, fit_square
from osteo_utils.data.novelty import FILE, REMARK, Novelty, fit_novelty
from osteo_utils.errors import ImageError
from osteo_utils.networks.saved import load_model
from osteo_utils.registry import CLASS_NAMES, last_conv_layers
from osteo_utils.runs import RunError, probabilities, read_run
from osteo_utils.saliency.gradcam import METHODS, grad_cam
from osteo_utils.scoring.evaluate import temperature, tempered

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "interface"))  # as `streamlit run` does

import answers
import page
import report

FIRST, SECOND = "VGG16, seed 0", "VGG19, seed 0"
PAIR = "VGG16 + VGG19, seed 0 (soft vote)"


def png(seed=0, shape=(50, 40)):
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on one split, of sizes 32 and 40."""
    root = tmp_path_factory.mktemp("app") / "runs"
    make_run(root, "vgg16", 32)
    make_run(root, "vgg19", 40)
    return root


@pytest.fixture(scope="module")
def members(runs):
    return [answers.load_member(folder) for folder in answers.finished(runs)]


def look_through(root):
    return answers.list_runs([(folder, answers.stamp(folder)) for folder in answers.finished(root)])


def probability(folder, data):
    """What Keras says of a file, the long way round."""
    run = read_run(folder)
    x = fit_square(decode(data), run.info["image_size"])[None, ..., None]
    return load_model(run).predict(x, verbose=0)[0]


# ---------------------------------------------------------------------------------------------
# What is computed


def test_runs_are_found_and_broken_ones_told(tmp_path):
    make_run(tmp_path, "vgg16", 32)
    broken = make_run(tmp_path, "vgg19", 32).folder
    (broken / "metrics.json").write_text("{")
    listed, problems = look_through(tmp_path)
    assert [each.title for each in listed] == [FIRST]
    assert len(problems) == 1
    assert "metrics.json" in problems[0]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("run.json", {"seed": None}),
        ("run.json", {"seed": "abc"}),
        ("run.json", {"class_names": None}),
        ("run.json", {"image_size": "32"}),
        ("metrics.json", {"validation": []}),
        ("metrics.json", {"validation": {"balanced_accuracy": None}}),
        ("metrics.json", {"test": {"ece": {"value": "x"}}}),
    ],
)
def test_a_damaged_run_hides_no_other(runs, tmp_path, file, change):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "simulated/smoke/vgg16/seed0" / file
    damaged.write_text(json.dumps(json.loads(damaged.read_text()) | change))
    listed, problems = look_through(tmp_path)
    assert [each.title for each in listed] == [SECOND]
    assert [line.startswith(str(damaged)) for line in problems] == [True]


def network(kind):
    """A network that does not take the films of a run of 32 pixels, or gives no probabilities."""
    films = keras.Input((40 if kind == "size" else 32,) * 2 + (3 if kind == "channels" else 1,))
    vector = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 64)(films))
    units, end = 5 if kind == "classes" else 3, None if kind == "logits" else "softmax"
    answer = keras.layers.Dense(units, activation=end, bias_initializer="ones")(vector)
    return keras.Model(films, [answer, answer] if kind == "outputs" else answer)


@pytest.mark.parametrize("kind", ["size", "channels", "classes", "outputs", "logits"])
def test_a_network_that_does_not_fit_its_run_is_one_line(tmp_path, kind):
    folder = make_run(tmp_path, "vgg16", 32).folder
    network(kind).save(folder / "model.keras")
    with pytest.raises(RunError, match=r"model\.keras: expected") as caught:
        answers.load_member(folder)
    assert "\n" not in str(caught.value)


def test_a_run_is_stamped_by_its_files(tmp_path):
    folder = make_run(tmp_path, "vgg16", 32).folder
    before = answers.stamp(folder)
    assert answers.stamp(folder) == before
    (folder / "novelty.json").write_text("{}")
    after = answers.stamp(folder)
    (folder / "novelty.json").unlink()
    assert before == answers.stamp(folder) != after
    os.utime(folder / "model.keras", ns=(0, 0))
    assert answers.stamp(folder) != before
    assert answers.stamp(tmp_path / "none") == ""


def test_a_folder_with_the_whole_disk_below_it_is_refused(tmp_path, monkeypatch):
    make_run(tmp_path, "vgg16", 32)
    monkeypatch.setattr(answers, "MOST_FOLDERS", 5)
    assert len(answers.finished(tmp_path)) == 1  # the folder, three more, and that of the run
    (tmp_path / "a").mkdir()
    with pytest.raises(RunError, match="name the folder that holds the runs"):
        answers.finished(tmp_path)


def test_pairs_need_both_members_of_one_seed(tmp_path):
    there = ("vgg16", 0), ("vgg19", 0), ("vgg19", 1), ("xception", 1), ("mobilenet_v2", 1)
    known = [answers.Listed(tmp_path, "", "g", *each, 0.5) for each in there]
    found = answers.pairs(known)
    assert list(found) == [PAIR, "MobileNetV2 + Xception, seed 1 (soft vote)"]
    assert [each.model for each in found[PAIR]] == ["vgg16", "vgg19"]


def test_an_answer_is_that_of_keras_and_its_calibration(members):
    film = answers.read_film(png(), "a.png")
    known = answers.record([members[0].run])
    validation = members[0].run.predictions.query("part == 'validation'")
    expected = probability(members[0].run.folder, png())
    said = answers.answer(members[:1], known.temperature, film)
    assert known.temperature == temperature(validation["label"], probabilities(validation))
    np.testing.assert_allclose(said.raw, expected, atol=1e-6)
    np.testing.assert_allclose(
        said.calibrated, tempered([expected], known.temperature)[0], atol=1e-6
    )
    assert said.called == expected.argmax() == said.calibrated.argmax()
    assert said.unlike is None  # these runs have no novelty.json
    assert known.scores == members[0].run.metrics["test"]


def test_an_ensemble_votes_and_is_scored_as_one(members):
    film, known = answers.read_film(png(), "a.png"), answers.record([m.run for m in members])
    each = [probability(member.run.folder, png()) for member in members]
    np.testing.assert_allclose(answers.answer(members, 1.0, film).raw, np.mean(each, 0), atol=1e-6)
    tables = [m.run.predictions.query("part == 'test'") for m in members]
    vote = np.mean([probabilities(table) for table in tables], axis=0)
    right = np.mean(vote.argmax(1) == tables[0]["label"])
    assert known.scores["accuracy"]["value"] == pytest.approx(right)
    assert (known.validation_films, known.test_films) == (12, 12)


def test_a_film_unlike_those_of_any_member_is_flagged(members):
    film = answers.read_film(png(), "a.png")
    never, always = (Novelty(np.zeros(66), np.eye(66), t) for t in (np.inf, -1.0))
    first, second = (answers.Member(m.run, m.network, never) for m in members)
    assert answers.answer([first, second], 1.0, film).unlike is False
    second = answers.Member(members[1].run, members[1].network, always)
    said = answers.answer([first, second], 1.0, film)
    assert said.unlike is True
    assert report.unlike_line(said) == REMARK


@pytest.mark.parametrize("method", METHODS)
def test_each_method_makes_a_map(members, method):
    (found,) = answers.explain(members[:1], answers.read_film(png(), "a.png"), method, 2)
    assert found.cam.shape in {(14, 14), (32, 32)}
    assert found.title.startswith(FIRST)


def test_maps_of_an_ensemble_are_the_mean_and_the_members(members):
    film = answers.read_film(png(), "a.png")
    mean, first, second = answers.explain(members, film, "grad_cam", 2)
    own = grad_cam(members[0].network, members[0].pixels(film), target=2, layer="maps")
    (alone,) = answers.explain(members[:1], film, "grad_cam", 2)
    np.testing.assert_array_equal(alone.cam, own[0])
    np.testing.assert_allclose(mean.cam, (first.cam + second.cam) / 2, rtol=1e-5)
    assert first.cam.sum() == pytest.approx(1, rel=1e-4)
    assert [first.title.split(",")[0], second.title.split(",")[0]] == ["VGG16", "VGG19"]


def test_a_fusion_has_a_map_for_each_branch_and_one_share_of_a_vote(members):
    branches = last_conv_layers("late_fusion", 32)
    pixels = keras.Input((32, 32, 1), dtype="uint8")
    speaks = {
        "kernel_initializer": keras.initializers.RandomUniform(0, 1e-3, seed=0)
    }  # no flat map
    maps = [keras.layers.Conv2D(4, 5, name=name, **speaks)(pixels) for name in branches.values()]
    vector = keras.layers.GlobalAveragePooling2D()(keras.layers.Concatenate()(maps))
    network = keras.Model(pixels, keras.layers.Dense(3, activation="softmax", **speaks)(vector))
    run = replace(members[0].run, info=members[0].run.info | {"model": "late_fusion"})
    fused, film = answers.Member(run, network, None), answers.read_film(png(), "a.png")
    titles = [each.title.split(", ")[2] for each in answers.explain([fused], film, "layer_cam", 2)]
    assert titles == ["VGG16 branch", "InceptionV3 branch"]
    vote = answers.explain([members[0], fused], film, "layer_cam", 2)
    mean, alone, *two = (each.cam for each in vote)
    np.testing.assert_allclose(mean, alone / 2 + two[0] / 4 + two[1] / 4, rtol=1e-5)


def test_a_flat_map_is_told_and_not_drawn(members):
    black = answers.Film("black", np.zeros((40, 40), np.uint8), None, 0, "")
    (found,) = answers.explain(members[:1], black, "grad_cam", 0)
    assert found.cam is None
    assert report.picture_of_map(black, found, "grad_cam", "Normal", "inferno", 0.5) is None
    assert "speaks for Normal" in report.flat_line(found, "grad_cam", "Normal")


@pytest.mark.parametrize("data", [b"", b"not an image", png()[:60], b"x" * 25_000_001])
def test_a_bad_file_is_an_image_error_that_names_it(data):
    with pytest.raises(ImageError, match=r"knee\.png"):
        answers.read_film(data, "knee.png")


def test_a_name_is_short_and_printable_and_the_bytes_decide():
    film = answers.read_film(png(), "x" * 200 + "\n\x00.txt")
    assert len(film.name) == answers.NAME_SHOWN
    assert film.name.endswith("x.txt")
    assert (film.facts.format, film.facts.width, film.facts.height) == ("PNG", 40, 50)


def test_a_damaged_network_is_a_run_error(tmp_path):
    folder = make_run(tmp_path, "vgg16", 32).folder
    data = (folder / "model.keras").read_bytes()
    (folder / "model.keras").write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"model\.keras"):
        answers.load_member(folder)


def test_the_limit_of_uploads_is_that_of_the_server_and_nothing_is_reported():
    settings = tomllib.loads((ROOT / "interface/.streamlit/config.toml").read_text())
    assert settings["server"]["maxUploadSize"] * 1_000_000 == answers.MAX_BYTES
    assert settings["browser"]["gatherUsageStats"] is False


# ---------------------------------------------------------------------------------------------
# The report


def test_the_report_is_whole_loads_nothing_and_escapes(members):
    film = answers.read_film(png(), '<script>alert("x")</script>')
    said = answers.Answer(CLASS_NAMES, np.array([0.2, 0.7, 0.1]), np.array([0.25, 0.6, 0.15]), True)
    (found,) = answers.explain(members[:1], film, "occlusion", 1)
    drawn = report.picture_of_map(film, found, "occlusion", "Osteopenia", "inferno", 0.5)
    known = answers.record([members[0].run])
    section = report.Section("<b>VGG16</b>", members[:1], known, said, [drawn], ["flat & told"])
    text = report.report_html(film, [section])
    soup = BeautifulSoup(text, "html.parser")
    assert soup.find("script") is None
    assert soup.h1.text == film.name
    assert NOTICE in soup.text
    assert REMARK in soup.text
    assert "flat & told" in soup.text
    assert "default-src 'none'" in soup.find("meta", attrs={"http-equiv": True})["content"]
    assert not re.search(r"(?:src|href)=.?(?:https?:|//)", text)
    assert [image["src"][:16] for image in soup.find_all("img")] == ["data:image/webp;"] * 2
    assert all(len(image["alt"].split()) > 3 for image in soup.find_all("img"))
    rows = [[cell.text for cell in row.find_all("td")] for row in soup.table.tbody.find_all("tr")]
    assert rows == [["0.250", "0.200"], ["0.600", "0.700"], ["0.150", "0.100"]]
    assert "tensorflow" in soup.footer.text
    assert "a" * 12 in soup.text  # the split


def test_a_map_says_where_it_is_strongest_and_shows_its_scale():
    film = answers.Film("film", np.full((8, 8), 100, np.uint8), None, 0, "")
    cam = np.array([[0, 0], [0, 2]], np.float32)
    made = report.picture_of_map(film, answers.Map("M", cam), "grad_cam", "Normal", "gray", 1.0)
    assert "75% from the left and 75% from the top" in made.alt
    assert "from 0 to 2" in made.caption
    assert made.pixels.shape == (report.SIDE + 18, report.SIDE, 3)
    assert made.pixels[0, 0].tolist() == [0, 0, 0]
    assert made.pixels[report.SIDE - 1, -1].tolist() == [255, 255, 255]
    assert made.pixels[-1, [0, -1]].tolist() == [[0] * 3, [255] * 3]


def test_no_text_of_the_csv_is_a_formula():
    films, models = ["=1+1", "@x", "a=b"], ["VGG16", "=2+2", "@y"]
    table = page.pd.DataFrame({"film": films, "model": models, "p": [1, 2, 3]})
    lines = page._csv(table).splitlines()
    assert lines == ["film,model,p", "'=1+1,VGG16,1", "'@x,'=2+2,2", "a=b,'@y,3"]


# ---------------------------------------------------------------------------------------------
# The page


@pytest.fixture
def app(runs, monkeypatch):
    """The page with the two runs, VGG16 chosen."""
    page.st.cache_data.clear()
    monkeypatch.setenv("OSTEO_RUNS", str(runs))
    at = AppTest.from_file(str(ROOT / "interface/app.py"), default_timeout=60).run()
    return choose(at, "Model", FIRST)


def choose(at, label, value):
    (box,) = [each for each in at.selectbox if each.label == label]
    return box.set_value(value).run()


def upload(at, *files):
    return at.file_uploader[0].set_value([(name, data, "image/png") for name, data in files]).run()


def html(at):
    return [BeautifulSoup(each.value, "html.parser") for each in at.get("html")]


def tables(at):
    """Raw probabilities of every answer on the page, top to bottom."""
    found = [soup for soup in html(at) if soup.find(class_="osteo-called")]
    numbers = [[row.find_all("td")[-1].text for row in soup.tbody.find_all("tr")] for soup in found]
    return np.array(numbers, float)


def history(at):
    return at.dataframe[0].value if at.dataframe else None


def test_the_page_offers_the_runs_the_pairs_and_every_control_has_a_label(app):
    (model,) = [each for each in app.selectbox if each.label == "Model"]
    assert model.options == [FIRST, SECOND, PAIR, page.OWN_VOTE]
    controls = [*app.selectbox, *app.slider, *app.toggle, *app.file_uploader, *app.text_input]
    assert all(each.label for each in controls)
    assert NOTICE in [soup.text for soup in html(app)]
    assert not app.exception
    assert not app.error


def test_the_page_starts_with_the_best_on_validation(runs, monkeypatch):
    monkeypatch.setenv("OSTEO_RUNS", str(runs))
    reached = {"vgg16": 0.5, "vgg19": 0.9}
    values = [answers.Listed(runs, m, "g", m, 0, reached[m]) for m in reached]
    page.st.cache_data.clear()
    monkeypatch.setattr(answers, "list_runs", lambda _: (values, []))
    at = AppTest.from_file(str(ROOT / "interface/app.py"), default_timeout=60).run()
    assert [each.value for each in at.selectbox if each.label == "Model"] == [SECOND]


def test_several_uploads_are_answered_as_keras_does_and_a_bad_one_is_told(app, runs):
    upload(app, ("a.png", png(0)), ("bad.png", b"nothing"), ("b.png", png(1)))
    folder = runs / "simulated/smoke/vgg16/seed0"
    expected = [probability(folder, png(seed)) for seed in (0, 1)]
    np.testing.assert_allclose(tables(app), expected, atol=6e-4)
    assert np.abs(expected[0] - expected[1]).max() > 2e-3  # else any answer would do
    assert len(app.error) == 1
    assert app.error[0].value.startswith(r"bad\.png")
    assert history(app)["film"].tolist() == ["a.png", "b.png"]
    assert not app.exception


def test_more_frames_than_announced_are_one_line_of_the_page(app, unannounced_frames):
    upload(app, ("f.dcm", unannounced_frames), ("a.png", png()))
    (told,) = app.error
    assert told.value.startswith(r"f\.dcm\: expected a single image\, found 3 frames")
    assert len(tables(app)) == 1
    assert not app.exception


def test_two_models_and_an_ensemble_side_by_side(app, runs):
    app.toggle[0].set_value(True).run()
    choose(app, "Second model", SECOND)
    upload(app, ("a.png", png()))
    folders = [runs / f"simulated/smoke/{model}/seed0" for model in ("vgg16", "vgg19")]
    expected = [probability(folder, png()) for folder in folders]
    np.testing.assert_allclose(tables(app), expected, atol=6e-4)
    choose(app, "Second model", PAIR)
    np.testing.assert_allclose(tables(app)[1], np.mean(expected, axis=0), atol=6e-4)
    assert history(app)["model"].tolist() == [FIRST, SECOND, PAIR]
    choose(app, "Model", page.OWN_VOTE)
    assert [each.value for each in app.warning] == [
        "Model: choose two or more members for the vote."
    ]
    app.multiselect[0].set_value([FIRST, SECOND]).run()
    np.testing.assert_allclose(tables(app), [np.mean(expected, axis=0)] * 2, atol=6e-4)
    assert not app.exception


@pytest.mark.parametrize("text", ["~nobody-of-this-name/runs", "a\0b"])
def test_a_path_that_is_none_is_told(app, text):
    app.text_input[0].set_value(text).run()
    assert [each.value.startswith("Folder of trained runs: ") for each in app.error] == [True]
    assert not app.exception


def test_beside_the_folder_stands_whose_runs_to_open(app):
    assert any("Open only runs that you trained" in soup.text for soup in html(app))


def test_two_files_of_one_content_are_two_films(app):
    upload(app, ("left.png", png()), ("right.png", png()))
    assert history(app)["film"].tolist() == ["left.png", "right.png"]
    app.slider[0].set_value(80).run()
    assert len(history(app)) == 2


def test_a_run_that_is_trained_anew_is_read_and_asked_anew(tmp_path, monkeypatch):
    make_run(tmp_path, "vgg16", 32)
    other = make_run(tmp_path / "elsewhere", "vgg16", 32, seed=1)
    monkeypatch.setenv("OSTEO_RUNS", str(tmp_path / "simulated"))
    at = AppTest.from_file(str(ROOT / "interface/app.py"), default_timeout=60).run()
    upload(at, ("a.png", png()))
    first = tables(at)
    folder = tmp_path / "simulated/smoke/vgg16/seed0"
    info = (folder / "run.json").read_text()
    shutil.copytree(other.folder, folder, dirs_exist_ok=True)
    (folder / "run.json").write_text(info)
    at.slider[0].set_value(80).run()
    np.testing.assert_allclose(tables(at), [probability(other.folder, png())], atol=6e-4)
    assert np.abs(first - tables(at)).max() > 2e-3
    assert len(history(at)) == 2
    assert not at.exception


def test_no_report_is_made_before_it_is_asked_for(app, monkeypatch):
    made = []
    monkeypatch.setattr(report, "report_html", lambda *_: made.append(1) or "")
    upload(app, ("a.png", png()))
    labels = [each.proto.label for each in app.get("download_button")]
    assert labels == ["Download the report", "Download as CSV"]
    assert made == []


def test_nothing_that_a_run_says_is_markdown(tmp_path, monkeypatch):
    folder = make_run(tmp_path, "vgg16", 32).folder
    hostile = "![x](https://a.b/c.png)"
    info = json.loads((folder / "run.json").read_text())
    info |= {"corpus": hostile, "versions": {hostile: hostile}, "preprocessing": hostile}
    (folder / "run.json").write_text(json.dumps(info))
    monkeypatch.setenv("OSTEO_RUNS", str(tmp_path))
    at = AppTest.from_file(str(ROOT / "interface/app.py"), default_timeout=60).run()
    upload(at, ("![x](https://a.b/d.png).png", png()))
    shown = [each.value for each in at.markdown] + at.table[0].value.to_numpy().ravel().tolist()
    assert any("https" in text for text in shown)
    assert not [text for text in shown if hostile[:4] in text]
    assert not at.exception


def test_the_history_keeps_what_was_shown_and_can_be_cleared(app):
    app.pills[0].set_value([answers.EXAMPLE_T_SCORES[0]]).run()
    app.slider[0].set_value(80).run()  # another look is no other answer
    choose(app, "Class", "Normal")
    assert history(app)["film"].tolist() == ["phantom, T-score 0.4"]
    upload(app, ("=a.png", png()))
    assert len(history(app)) == 2
    (clear,) = [each for each in app.button if each.label == "Clear the history"]
    clear.click().run()
    assert history(app) is None
    assert len(tables(app)) == 2  # the films themselves stay
    assert not app.exception


def test_method_and_class_can_be_chosen(app):
    upload(app, ("a.png", png()))
    choose(app, "Method", "occlusion")
    choose(app, "Class", "Osteoporosis")
    shown = [image.proto.imgs[0].alt for image in app.image]
    assert any("Occlusion for Osteoporosis" in alt for alt in shown)
    assert not app.exception


def test_a_damaged_network_is_one_line_and_the_other_model_answers(tmp_path, monkeypatch):
    make_run(tmp_path, "vgg16", 32)
    (make_run(tmp_path, "vgg19", 32).folder / "model.keras").write_bytes(b"x")
    monkeypatch.setenv("OSTEO_RUNS", str(tmp_path))
    at = AppTest.from_file(str(ROOT / "interface/app.py"), default_timeout=60).run()
    at.toggle[0].set_value(True).run()
    choose(at, "Model", FIRST)
    choose(at, "Second model", SECOND)
    upload(at, ("a.png", png()))
    assert [r"model\.keras" in each.value for each in at.error] == [True]
    assert len(tables(at)) == 1
    assert not at.exception


def test_a_film_like_no_other_is_warned_of(tmp_path, monkeypatch):
    folder = make_run(tmp_path, "vgg16", 32).folder
    knees = [fit_square(decode(answers.example(t)), 32) for t in np.linspace(-4, 1, 8)]
    fit_novelty(knees[::2], knees[1::2]).save(folder)
    assert (folder / FILE).exists()
    monkeypatch.setenv("OSTEO_RUNS", str(tmp_path))
    at = AppTest.from_file(str(ROOT / "interface/app.py"), default_timeout=60).run()
    upload(at, ("noise.png", png()))
    assert [each.value for each in at.warning] == [REMARK]


def test_without_runs_the_page_trains_small_ones_and_then_works(tmp_path, monkeypatch):
    page.st.cache_data.clear()
    monkeypatch.setenv("OSTEO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(course, "open_course", lambda profile, runs: (profile, runs))
    monkeypatch.setattr(course, "split", lambda opened: None)
    monkeypatch.setattr(course, "train_model", lambda opened, model: make_run(opened[1], model, 32))
    at = AppTest.from_file(str(ROOT / "interface/app.py"), default_timeout=60).run()
    assert "No finished run" in at.info[0].value
    at.multiselect[0].set_value(["mobilenet_v2"]).run()
    at.button[0].click().run()
    assert [each.value for each in at.selectbox if each.label == "Model"] == ["MobileNetV2, seed 0"]
    assert not at.exception
