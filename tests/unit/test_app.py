"""The app: what it computes, its report, and the page in Streamlit's own test harness."""

import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from streamlit.testing.v1 import AppTest
from tiny_runs import make_run, png

from interface import page, report
from interface import runs as offered
from osteo_utils import NOTICE, course, inference
from osteo_utils.data.images import fit_square
from osteo_utils.data.novelty import FILE, REMARK, fit_novelty
from osteo_utils.formats.films import decode
from osteo_utils.inference import explain_vote, find_runs, uploaded_film
from osteo_utils.networks.saved import load_model
from osteo_utils.overlay import picture_of_map
from osteo_utils.runs import probabilities, read_run
from osteo_utils.scoring.evaluate import temperature, tempered

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "VGG16, seed 0", "VGG19, seed 0"
PAIR = "VGG16 + VGG19, seed 0 (soft vote)"


def look_through(root):
    return offered.list_runs([(folder, offered.stamp(folder)) for folder in find_runs(root)])


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


def test_a_run_is_stamped_by_its_files(tmp_path):
    folder = make_run(tmp_path, "vgg16", 32).folder
    before = offered.stamp(folder)
    assert offered.stamp(folder) == before
    (folder / "novelty.json").write_text("{}")
    after = offered.stamp(folder)
    (folder / "novelty.json").unlink()
    assert before == offered.stamp(folder) != after
    os.utime(folder / "model.keras", ns=(0, 0))
    assert offered.stamp(folder) != before
    assert offered.stamp(tmp_path / "none") == ""


def test_pairs_need_both_members_of_one_seed(tmp_path):
    there = ("vgg16", 0), ("vgg19", 0), ("vgg19", 1), ("xception", 1), ("mobilenet_v2", 1)
    known = [offered.Listed(tmp_path, "", "g", *each, 0.5) for each in there]
    found = offered.pairs(known)
    assert list(found) == [PAIR, "MobileNetV2 + Xception, seed 1 (soft vote)"]
    assert [each.model for each in found[PAIR]] == ["vgg16", "vgg19"]


def test_an_answer_is_that_of_keras_and_its_calibration(members):
    film = uploaded_film(png(), "a.png")
    known = offered.record([members[0].run])
    validation = members[0].run.predictions.query("part == 'validation'")
    expected = probability(members[0].run.folder, png())
    said = offered.calibrated_answer(members[:1], known.temperature, film)
    assert known.temperature == temperature(validation["label"], probabilities(validation))
    np.testing.assert_allclose(said.raw, expected, atol=1e-6)
    calibrated = tempered([expected], known.temperature)[0]
    np.testing.assert_allclose(said.calibrated, calibrated, atol=1e-6)
    assert said.called == expected.argmax() == said.calibrated.argmax()
    assert report.unlike_line(said) == report.UNCHECKED  # these runs have no novelty.json
    assert known.scores == members[0].run.metrics["test"]


def test_an_ensemble_votes_and_is_scored_as_one(members):
    film, known = uploaded_film(png(), "a.png"), offered.record([m.run for m in members])
    each = [probability(member.run.folder, png()) for member in members]
    raw = offered.calibrated_answer(members, 1.0, film).raw
    np.testing.assert_allclose(raw, np.mean(each, 0), atol=1e-6)
    tables = [m.run.predictions.query("part == 'test'") for m in members]
    vote = np.mean([probabilities(table) for table in tables], axis=0)
    right = np.mean(vote.argmax(1) == tables[0]["label"])
    assert known.scores["accuracy"]["value"] == pytest.approx(right)
    assert (known.validation_films, known.test_films) == (12, 12)


def test_the_limit_of_uploads_is_that_of_the_server_and_nothing_is_reported():
    settings = tomllib.loads((ROOT / "interface/.streamlit/config.toml").read_text())
    assert settings["server"]["maxUploadSize"] * 1_000_000 == inference.MAX_UPLOAD_BYTES
    assert settings["browser"]["gatherUsageStats"] is False


# ---------------------------------------------------------------------------------------------
# The report


def test_the_report_is_whole_loads_nothing_and_escapes(members):
    film = uploaded_film(png(), '<script>alert("x")</script>')
    said = offered.Answer(np.array([0.2, 0.7, 0.1]), np.array([0.25, 0.6, 0.15]), True)
    (found,) = explain_vote(members[:1], film.image, "occlusion", 1)
    drawn = picture_of_map(film.image, film.name, "Occlusion", found, "inferno", 0.5, report.SIDE)
    known = offered.record([members[0].run])
    section = report.Section("<b>VGG16</b>", members[:1], known, said, [drawn], ["flat & told"])
    text = report.report_html(film, [section])
    soup = BeautifulSoup(text, "html.parser")
    assert soup.find("script") is None
    assert soup.h1.text == film.name
    assert NOTICE in soup.text
    assert "open only runs that you trained or whose maker you trust" in soup.dl.text
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


def warned(at):
    """Warnings but for the note that these networks are none of the course's."""
    return [each.value for each in at.warning if "open only runs that you" not in each.value]


def history(at):
    return at.dataframe[0].value if at.dataframe else None


def test_the_page_offers_the_runs_the_pairs_and_every_control_has_a_label(app):
    (model,) = [each for each in app.selectbox if each.label == "Model"]
    assert model.options == [FIRST, SECOND, PAIR, page.OWN_VOTE]
    controls = [*app.selectbox, *app.slider, *app.toggle, *app.file_uploader, *app.text_input]
    assert all(each.label for each in controls)
    assert NOTICE in [soup.text for soup in html(app)]
    (note,) = [each.value for each in app.warning]  # these networks are none of the course's
    assert "open only runs that you trained" in note
    assert not app.exception
    assert not app.error


def test_the_page_starts_with_the_best_on_validation(runs, monkeypatch):
    monkeypatch.setenv("OSTEO_RUNS", str(runs))
    reached = {"vgg16": 0.5, "vgg19": 0.9}
    values = [offered.Listed(runs, m, "g", m, 0, reached[m]) for m in reached]
    page.st.cache_data.clear()
    monkeypatch.setattr(offered, "list_runs", lambda _: (values, []))
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
    assert warned(app) == ["Model: choose two or more members for the vote."]
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
    app.pills[0].set_value([inference.EXAMPLE_T_SCORES[0]]).run()
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
    knees = [fit_square(inference.example_film(t).image, 32) for t in np.linspace(-4, 1, 8)]
    fit_novelty(knees[::2], knees[1::2]).save(folder)
    assert (folder / FILE).exists()
    monkeypatch.setenv("OSTEO_RUNS", str(tmp_path))
    at = AppTest.from_file(str(ROOT / "interface/app.py"), default_timeout=60).run()
    upload(at, ("noise.png", png()))
    assert warned(at) == [REMARK]


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
