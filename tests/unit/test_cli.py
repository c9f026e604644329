"""The command line, called as a function; once as a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_runs import make_run, rows_of

from osteo_utils import cli, course, export, runs
from osteo_utils.cli import main
from osteo_utils.data.corpus import corpus_name
from osteo_utils.data.images import fit_square, read_image
from osteo_utils.data.novelty import fit_novelty
from osteo_utils.inference import Film
from osteo_utils.networks import models
from osteo_utils.networks.saved import load_model
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import PROBABILITY_COLUMNS
from osteo_utils.saliency import gradcam

COMMANDS = ("corpus", "audit", "train", "evaluate", "explain", "predict", "export")
LABELS = [0, 0, 1, 1, 2, 2]


@pytest.fixture(scope="module")
def calling(tmp_path_factory):
    """Finished runs of a small, untrained Custom CNN; both parts have the films of LABELS."""
    home = tmp_path_factory.mktemp("runs")

    def make(seed, called, **info):
        rows = rows_of(LABELS, (0.1 + 0.7 * np.eye(3))[called])
        info |= {"epochs_run": 2, "best_epoch": 1, "seconds": 3.0, "device": "cpu"}
        info |= {"parameters": 11}
        network = models.build("custom_cnn", 32, seed=seed)
        return make_run(home, seed=seed, trained=network, rows=rows, **info)

    return make


@pytest.fixture(scope="module")
def perfect(calling):
    return calling(0, LABELS)


@pytest.fixture(scope="module")
def flawed(calling):
    """Calls one Osteopenia of two Normal."""
    return calling(1, [0, 0, 0, 1, 2, 2])


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A wide and a square film."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for name, shape in (("wide", (40, 80)), ("square", (64, 64))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{name}.png")
    return [folder / "wide.png", folder / "square.png"]


@pytest.fixture
def call(capsys):
    """Call a command with --json: exit code, what came back, what stderr says."""

    def called(*arguments):
        code = main([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else None, said.err

    return called


@pytest.fixture
def failing(capsys):
    """Call a command that must fail: the one line on stderr."""

    def failed(*arguments):
        assert main(list(map(str, arguments))) == 1
        said = capsys.readouterr()
        assert said.out == ""
        lines = [line for line in said.err.splitlines() if line.startswith("osteo: error:")]
        assert len(lines) == 1
        return lines[0]

    return failed


# ---------------------------------------------------------------------------------------------
# The frame


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    said = capsys.readouterr().out
    assert left.value.code == 0
    assert f"osteo {command} " in said.split("example")[1]
    assert "writes:" in said
    assert max(map(len, said.splitlines())) <= 105


def test_help_needs_no_heavy_library():
    code = "import sys; from osteo_utils.cli import build_parser; build_parser().format_help();"
    code += "print(sorted({'keras', 'tensorflow', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_as_a_process_an_error_is_one_line_and_the_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "osteo_utils", "corpus", str(tmp_path / "none"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("osteo: error: corpus ")
    assert done.stderr.count("\n") == 1
    assert "expected 'simulated', 'kaggle', or the path of a folder or zip, found" in done.stderr


@pytest.mark.parametrize(
    "wrong", [[], ["fly"], ["train"], ["corpus", "--profile", "huge"], ["evaluate", "--json"]]
)
def test_wrong_usage_is_2(wrong, capsys):
    with pytest.raises(SystemExit) as left:
        main(wrong)
    assert left.value.code == 2
    assert "usage: osteo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["corpus", "--profile", "smok"], "found 'smok'. Did you mean smoke?"),
        (["explain", "run", "film", "--method", "scorecam"], "Did you mean score_cam?"),
        (["evaluate", "run", "--score", "acuracy"], "Did you mean accuracy?"),
    ],
)
def test_a_name_that_is_mistyped_is_told_as_it_is_meant(wrong, told, capsys):
    with pytest.raises(SystemExit):
        main(wrong)
    assert told in capsys.readouterr().err


def test_an_interrupt_is_130_and_a_bug_keeps_its_trace(tmp_path, monkeypatch, capsys):
    def raising(error):
        def read(*_):
            raise error

        return read

    monkeypatch.setattr(runs, "read_run", raising(KeyboardInterrupt()))
    assert main(["evaluate", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err
    monkeypatch.setattr(runs, "read_run", raising(ValueError("expected by nobody")))
    with pytest.raises(ValueError, match="by nobody"):
        main(["evaluate", str(tmp_path)])


def test_a_message_of_the_system_names_the_file(perfect, films, tmp_path, failing):
    (tmp_path / "taken").write_text("")
    line = failing("predict", perfect.folder, films[0], "--out", tmp_path / "taken" / "a.csv")
    assert line == f"osteo: error: {tmp_path / 'taken'}: File exists"


def test_quiet_leaves_nothing_but_the_result(simulated, tmp_path, capsys):
    command = ["audit", str(simulated), "--profile", "smoke", "--runs", str(tmp_path / "runs")]
    assert main([*command, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith("Files: ")
    assert (tmp_path / "runs" / corpus_name(str(simulated)) / "smoke" / "audit.csv").exists()
    assert main(command) == 0
    said = capsys.readouterr()
    assert "profile smoke" in said.err
    assert said.out.startswith("Files: ")


def test_json_knows_no_nan():
    data = {"a": np.float64("nan"), "b": (np.int64(3), Path("x")), "c": [None, True]}
    found = json.loads(cli._as_json(data))
    assert found == {"a": None, "b": [3, "x"], "c": [None, True]}


# ---------------------------------------------------------------------------------------------
# The commands


def test_corpus_counts_the_files(simulated, call):
    code, found, _ = call("corpus", simulated)
    listed = [p for p in (simulated / "OS Collected Data").rglob("*") if p.is_file()]
    by_class = {name: sum(p.parent.name == name for p in listed) for name in CLASS_NAMES}
    assert code == 0
    assert found["files"] == len(listed)
    assert {row["class"]: row["files"] for row in found["classes"]} == by_class
    assert [row["unreadable"] for row in found["classes"]] == [0, 0, 0]
    assert found["best_possible"]["balanced_accuracy"] == pytest.approx(0.91, abs=0.005)


def test_corpus_of_films_alone_has_no_best_score(films, tmp_path, capsys):
    for name in CLASS_NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(films[0].read_bytes())
    (tmp_path / "Normal" / "b.png").write_bytes(b"no picture")
    assert main(["corpus", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "best possible scores are not known" in said
    assert said.splitlines()[2].split()[:3] == ["Normal", "2", "1"]


def test_audit_writes_its_tables_where_it_is_told(simulated, tmp_path, call):
    code, found, _ = call("audit", simulated, "--out", tmp_path / "new" / "audit")
    assert code == 0
    images = pd.read_csv(tmp_path / "new" / "audit" / "audit.csv")
    assert found["counts"]["files"] == len(images)
    assert found["counts"]["kept"] == images["keep"].sum()
    assert {row["kind"] for row in found["against_truth"]} >= {"byte copies", "label conflicts"}
    assert not (tmp_path / "runs").exists()


def test_train_hands_over_to_the_course(simulated, perfect, monkeypatch, tmp_path, call):
    asked = []

    def train_model(opened, model):
        asked.append((opened.profile.name, opened.seed, opened.root, opened.runs, model))
        return perfect

    monkeypatch.setattr(course, "train_model", train_model)
    home = ("--corpus", simulated, "--profile", "smoke", "--seed", 3, "--runs", tmp_path / "runs")
    code, found, notes = call("train", "custom_cnn", *home)
    assert code == 0
    assert asked == [("smoke", 3, simulated, tmp_path / "runs", "custom_cnn")]
    assert found["folder"] == str(perfect.folder)
    assert found["metrics"]["test"]["accuracy"]["value"] == 1
    assert "profile smoke" in notes


@pytest.mark.parametrize("seed", ["-1", str(2**31)])
def test_a_seed_that_is_none_is_told_in_a_line_before_a_corpus_is_made(tmp_path, failing, seed):
    home = ("--profile", "smoke", "--runs", tmp_path / "runs")
    line = failing("train", "custom_cnn", f"--seed={seed}", *home)
    assert f"seed: expected a whole number in 0..2147483647, found {seed}" in line
    assert not (tmp_path / "corpora").exists()


@pytest.mark.parametrize("command", ["corpus", "audit"])
def test_the_corpus_is_where_the_chapters_have_it(simulated, monkeypatch, tmp_path, call, command):
    """Wherever a command is started: in a checkout both are beside the folder of the chapters."""
    homes = []
    monkeypatch.setattr(course, "open_corpus", lambda *given: homes.append(given[2]) or simulated)
    (chapters := tmp_path / "checkout/notebooks").mkdir(parents=True)
    (tmp_path / "checkout/osteo_utils").mkdir()
    monkeypatch.chdir(chapters)
    out = ("--out", tmp_path / "audit") if command == "audit" else ()
    assert call(command, "--profile", "smoke", *out)[0] == 0
    course.open_course("smoke")
    assert homes == [tmp_path / "checkout/corpora"] * 2


def test_train_names_the_models(tmp_path, failing):
    line = failing("train", "custom", "--runs", tmp_path / "runs")
    assert "expected one of custom_cnn, alexnet" in line
    assert line.endswith("found 'custom'. Did you mean custom_cnn?")
    assert not (tmp_path / "corpora").exists()


def test_evaluate_tells_scores_and_the_paired_difference(perfect, flawed, call):
    code, found, _ = call("evaluate", perfect.folder, flawed.folder)
    assert code == 0
    first, second = found["runs"]
    assert first["scores"]["balanced_accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert second["confusion"]["counts"] == [[2, 0, 0], [1, 1, 0], [0, 0, 2]]
    assert second["scores"]["accuracy"]["value"] == pytest.approx(5 / 6)
    assert second["classes"]["Osteopenia"]["recall"]["value"] == 0.5
    [difference] = found["differences"]
    assert (difference["first"], difference["second"]) == ("custom_cnn/seed0", "custom_cnn/seed1")
    assert difference["value"] == pytest.approx(1 / 6)  # of three recalls one is halved
    assert 0 == difference["low"] < difference["high"] <= 0.34  # at worst both are wrong
    assert difference["p_adjusted"] == difference["p"]


def test_evaluate_as_text(perfect, flawed, capsys):
    assert main(["evaluate", str(flawed.folder), "--part", "validation"]) == 0
    said = capsys.readouterr().out
    assert "accuracy                    0.83 (" in said
    assert "Osteopenia                1                  1                    0" in said
    assert "Differences" not in said


def test_evaluate_refuses_runs_of_two_splits(perfect, calling, failing):
    other = calling(2, LABELS, split_hash="b" * 64)
    assert "expected the split of" in failing("evaluate", perfect.folder, other.folder)


def answers(run, paths):
    x = np.stack([fit_square(read_image(path), 32) for path in paths])[..., None]
    return load_model(run).predict(x, verbose=0)


def test_predict_is_what_the_model_says(perfect, films, tmp_path, call):
    file = tmp_path / "new" / "a.csv"
    code, found, notes = call("predict", perfect.folder, *films, "--out", file)
    wanted = answers(perfect, films)
    assert code == 0
    assert "not a medical device" in notes
    p = [[row[name] for name in PROBABILITY_COLUMNS] for row in found["images"]]
    np.testing.assert_allclose(p, wanted, atol=1e-6)
    called = [CLASS_NAMES[each] for each in wanted.argmax(axis=1)]
    assert [row["called"] for row in found["images"]] == called
    written = pd.read_csv(file)
    assert written["file"].tolist() == list(map(str, films))
    np.testing.assert_allclose(written[list(PROBABILITY_COLUMNS)], wanted, atol=1e-6)


def test_several_runs_vote_and_a_bad_file_is_left_out(perfect, flawed, films, tmp_path, call):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    code, found, notes = call("predict", perfect.folder, flawed.folder, bad, films[1])
    assert code == 1
    assert f"osteo: error: {bad}: expected an image" in notes
    [row] = found["images"]
    wanted = (answers(perfect, films[1:]) + answers(flawed, films[1:]))[0] / 2
    np.testing.assert_allclose([row[name] for name in PROBABILITY_COLUMNS], wanted, atol=1e-6)
    assert found["runs"] == ["custom_cnn/seed0", "custom_cnn/seed1"]


def test_more_frames_than_announced_are_one_line_and_the_other_films_are_answered(
    perfect, films, unannounced_frames, tmp_path, call
):
    (tmp_path / "f.dcm").write_bytes(unannounced_frames)
    code, found, notes = call("predict", perfect.folder, tmp_path / "f.dcm", films[1])
    assert code == 1
    assert f"osteo: error: {tmp_path / 'f.dcm'}: expected a single image, found 3 frames" in notes
    assert [row["file"] for row in found["images"]] == [str(films[1])]


def test_predict_says_what_is_unlike_the_training_films(perfect, flawed, films, tmp_path, capsys):
    film, rng = fit_square(read_image(films[0]), 32).astype(int), np.random.default_rng(0)
    noisy = np.clip(film + rng.integers(-20, 21, (40, 32, 32)), 0, 255).astype(np.uint8)
    known = [*noisy, film.astype(np.uint8)]
    folder = shutil.copytree(perfect.folder, tmp_path / "seed0")
    fit_novelty(known, known).save(folder)
    arguments = ["predict", str(flawed.folder), str(folder), *map(str, films), "--quiet"]
    assert main([*arguments, "--json"]) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)["images"]
    assert [row["unlike_training"] for row in rows] == [False, True]
    assert f"{films[1]}: This film is unlike" in said.err
    assert str(films[0]) not in said.err
    assert main(["predict", str(flawed.folder), str(films[0])]) == 0
    assert capsys.readouterr().out.rstrip().endswith("not checked")


def test_a_name_that_is_no_utf_8_or_no_line_is_escaped(perfect, films, tmp_path, capsys):
    odd = [os.fsdecode(os.fsencode(tmp_path) + end) for end in (b"/\xd5\xfd.png", b"/=a\r.png")]
    for path in odd:
        shutil.copy(films[1], path)
    table = tmp_path / "a.csv"
    command = ["predict", str(perfect.folder), *odd]
    assert main([*command, "--out", str(table)]) == 0
    shown = [rf"{tmp_path}/\udcd5\udcfd.png", rf"{tmp_path}/=a\r.png"]
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[1:]] == shown
    assert pd.read_csv(table)["file"].tolist() == shown
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["images"]
    assert [row["file"] for row in rows] == odd  # to be opened by whoever reads the JSON
    assert main(["predict", str(perfect.folder), f"{odd[0]}.none"]) == 1
    assert rf"error: {shown[0]}.none" in capsys.readouterr().err


def test_no_file_name_of_the_table_is_a_formula(perfect, films, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    shutil.copy(films[1], "=1+1.png")
    call("predict", perfect.folder, "=1+1.png", "--out", "a.csv")
    assert pd.read_csv("a.csv")["file"].tolist() == ["'=1+1.png"]


def test_a_terminal_without_letters_gets_escapes(perfect, films, tmp_path):
    shutil.copy(films[1], tmp_path / "knié.png")
    command = [sys.executable, "-m", "osteo_utils", "predict", perfect.folder, "knié.png"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert rb"kni\xe9.png" in done.stdout


def test_a_run_made_to_test_the_course_is_said_to_mean_nothing(perfect, capsys):
    assert main(["evaluate", str(perfect.folder)]) == 0
    assert "made to test the course: what it says means nothing" in capsys.readouterr().err


def test_predict_needs_a_run_and_a_film(perfect, films, tmp_path, failing):
    assert "expected the folder of a run first, found no folder" in failing("predict", films[0])
    assert "found nothing of that name" in failing("predict", tmp_path / "none", films[0])
    assert f"such as {perfect.folder}" in failing("predict", perfect.folder.parent, films[0])
    assert "found no folder of that name" in failing("evaluate", tmp_path / "none")
    assert "expected radiographs after the runs" in failing("predict", perfect.folder)
    assert "expected a finished run" in failing("predict", tmp_path, films[0])
    for order in ((perfect.folder, films[0].parent), (films[0].parent, films[0])):
        line = failing("predict", *order)
        assert "found a folder of 2 other files" in line
        assert line.endswith(f"as {films[0].parent}/*")


@pytest.fixture
def fake_map(monkeypatch):
    """A method whose map of the first film peaks in one cell; that of the second is flat."""
    seen = []

    def method(model, images, target=None, layer=None, flat="raise"):
        seen.append((images.shape, list(target), layer, flat))
        maps = np.zeros((len(images), 4, 4), np.float32)
        maps[0, 2, 3] = 7
        maps[1:] = np.nan
        return maps

    monkeypatch.setitem(gradcam.METHODS, "layer_cam", method)
    return seen


def test_explain_says_where_the_map_peaks(fake_map, perfect, films, tmp_path, call):
    out = tmp_path / "maps"
    more = ("--method", "layer_cam", "--target", "osteopenia", "--out", out, "--raw")
    code, found, _ = call("explain", perfect.folder, *films, *more)
    assert code == 0
    assert fake_map == [((2, 32, 32, 1), [1, 1], "block5_relu", "nan")]
    wide, square = found["maps"]
    # Cell (2, 3) of 4 x 4 has its centre at x 70, y 50 of an 80 x 80 square; the film of 40 rows
    # lies 20 rows below its top.
    assert (wide["peak"], wide["x"], wide["y"]) == (7, 70, 30)
    assert wide["target"] == "Osteopenia"
    assert (square["peak"], square["picture"]) == (None, None)
    files = ["square.layer_cam.npy", "wide.layer_cam.npy", "wide.layer_cam.png"]
    assert sorted(p.name for p in out.iterdir()) == files
    assert np.load(wide["raw"])[2, 3] == 7


def test_explain_makes_a_real_map_and_names_an_unknown_layer(perfect, films, tmp_path, call):
    code, found, _ = call("explain", perfect.folder, films[1], "--out", tmp_path)
    assert code == 0
    [row] = found["maps"]
    x = fit_square(read_image(films[1]), 32)[None, ..., None]
    cam = gradcam.grad_cam(load_model(perfect), x, layer="block5_relu")[0]
    assert row["peak"] == pytest.approx(float(cam.max()), rel=1e-4)
    picture = np.asarray(Image.open(row["picture"]).convert("RGB"))
    assert picture.std() > 10
    code, found, notes = call("explain", perfect.folder, films[1], "--layer", "nowhere")
    assert (code, found) == (1, None)
    assert "block5_relu" in notes


def test_explain_takes_a_network_that_is_none_of_the_course(perfect, films, tmp_path, call):
    folder = shutil.copytree(perfect.folder, tmp_path / "seed0")
    info = json.loads((folder / "run.json").read_text()) | {"model": "my_own"}
    (folder / "run.json").write_text(json.dumps(info))
    code, found, notes = call("explain", folder, films[1], "--out", tmp_path)
    assert (code, found["run"]) == (0, "my_own/seed0")
    assert "open only runs that you trained or whose maker you trust" in notes
    x = fit_square(read_image(films[1]), 32)[None, ..., None]
    cam = gradcam.grad_cam(load_model(perfect), x)[0]
    assert found["maps"][0]["peak"] == pytest.approx(float(cam.max()), rel=1e-4)


@pytest.mark.parametrize(
    ("names", "stems"),
    [
        (["a/wide.png", "square.png", "b/wide.jpg"], ["wide", "square", "wide-2"]),
        (["a/knee.png", "b/knee.png", "c/knee-2.png"], ["knee", "knee-3", "knee-2"]),
        (["a/knee-2.png", "b/knee.png", "c/knee.png"], ["knee-2", "knee", "knee-3"]),
        (["a/Knee.png", "b/knee.png", "c/KNEE-2.png"], ["Knee", "knee-3", "KNEE-2"]),
        (["a/k.png"] * 3 + ["a/k-2.png"] * 2, ["k", "k-3", "k-4", "k-2", "k-2-2"]),
        ([f"{'x' * 251}.png"] * 2, ["x" * 180, f"{'x' * 180}-2"]),
    ],
)
def test_explain_gives_every_film_a_name_of_its_own(names, stems):
    loaded = [Film(name, np.zeros((2, 2), np.uint8), None, 0, "") for name in names]
    assert cli._stems(loaded) == stems


def test_explain_overwrites_no_map_of_the_same_call(fake_map, perfect, films, tmp_path, call):
    paths = [tmp_path / name for name in ("a/knee.png", "b/knee.png", "c/knee-2.png")]
    for path in paths:
        path.parent.mkdir()
        shutil.copy(films[0], path)
    out = tmp_path / "maps"
    more = ("--method", "layer_cam", "--raw", "--out", out)
    _, found, _ = call("explain", perfect.folder, *paths, *more)
    assert [row["file"] for row in found["maps"]] == list(map(str, paths))
    raw = [Path(row["raw"]).name for row in found["maps"]]
    assert raw == [f"{name}.layer_cam.npy" for name in ("knee", "knee-3", "knee-2")]
    assert {path.name for path in out.glob("*.npy")} == set(raw)


def test_export_compares_on_the_films_it_is_given(perfect, films, tmp_path, monkeypatch, call):
    compared = []

    def export_onnx(member, images, folder):
        compared.append(images)
        folder.mkdir()
        file = folder / "custom_cnn-0123456789ab.onnx"
        file.write_bytes(b"12345")
        return file

    monkeypatch.setattr(export, "export_onnx", export_onnx)
    code, found, _ = call("export", perfect.folder, *films, "--out", tmp_path / "new")
    assert code == 0
    np.testing.assert_array_equal(compared[0][1, ..., 0], fit_square(read_image(films[1]), 32))
    assert found["bytes"] == 5
    about = json.loads(Path(found["description"]).read_text())
    assert about["class_names"] == list(CLASS_NAMES)
    assert about["file"] == "custom_cnn-0123456789ab.onnx"


def test_export_says_which_package_is_missing(perfect, monkeypatch, failing):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnx" else name)
    assert "found no onnx; pip install onnx" in failing("export", perfect.folder)


def test_a_table_lines_up():
    rows = [{"name": "a", "n": 1, "x": None}, {"name": "long", "n": 1200, "x": "y"}]
    assert cli._table(rows).splitlines() == ["name      n  x", "a         1", "long  1,200  y"]
