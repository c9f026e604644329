import base64
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_films import encoded

from osteo_utils.data import corpus
from osteo_utils.data.corpus import corpus_name, list_corpus, open_corpus, unpack
from osteo_utils.data.images import read_image
from osteo_utils.errors import CorpusError
from osteo_utils.formats import archives
from osteo_utils.formats.films import ImageFacts
from osteo_utils.phantom import MASKS
from osteo_utils.phantom import corpus as simulation
from osteo_utils.phantom.corpus import FAULTS, Population, best_possible, make_simulated, read_truth
from osteo_utils.registry import CLASS_NAMES, IMAGE_FOLDER, class_of_t_score, get_profile
from osteo_utils.store import rows_digest

COLUMNS = ["path", "label", "patient", "site", "side", "format", "extension", "mode", "width"]
COLUMNS += ["height", "bytes", "sha256", "problem"]


def png(value=0):
    return encoded(Image.fromarray(np.full((8, 6), value, np.uint8)))


def one_of_each(*numbers):
    """Paths of films of these numbers in the folder of each class."""
    return [f"{name}/{number}.png" for name in CLASS_NAMES for number in numbers]


@pytest.fixture
def small(tmp_path):
    """A folder with a film of each class."""
    return write(tmp_path / "knees", *one_of_each(1))


def write(root, *paths, data=None):
    for value, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(value) if data is None else data)
    return root


def hashes(root):
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def nonempty(folder):
    """What lies in a folder but for the locks, which stay."""
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


@pytest.fixture(scope="module")
def listing(simulated):
    return list_corpus(simulated)


@pytest.fixture(scope="module")
def truth(simulated):
    return read_truth(simulated)


# ---- the simulated corpus ------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_workers(tmp_path):
    one = make_simulated(tmp_path / "one", 10, 32, seed=3, workers=1)
    two = make_simulated(tmp_path / "two", 10, 32, seed=3, workers=2)
    other = make_simulated(tmp_path / "other", 10, 32, seed=4, workers=1)
    assert hashes(one) == hashes(two)
    assert hashes(one) != hashes(other)


def test_the_listing_of_a_simulated_corpus(listing):
    assert list(listing.columns) == COLUMNS
    assert len(listing) == 48 + 2 * len(FAULTS)
    assert set(listing["label"]) == {0, 1, 2}
    assert (listing["problem"] == "").all()
    assert set(listing["format"]) == {"JPEG", "PNG"}
    assert set(listing["extension"]) == {".jpg", ".JPEG", ".png"}
    assert set(listing["side"]) == {"L", "R"}
    for label, name in enumerate(CLASS_NAMES):
        paths = listing.loc[listing["label"] == label, "path"]
        stems = [path.rpartition(".")[0] for path in paths]
        assert stems == [f"{IMAGE_FOLDER}/{name}/{name} {n + 1}" for n in range(len(paths))]


def test_the_number_in_the_name_says_nothing(truth):
    fault = truth["fault"] != ""
    number = truth["path"].str.extract(r" (\d+)\.")[0].astype(int)
    assert abs(np.corrcoef(number, fault)[0, 1]) < 0.35
    assert abs(np.corrcoef(number, truth["patient"].str[1:].astype(int))[0, 1]) < 0.35


def test_truth_fits_the_listing(listing, truth):
    assert truth["path"].tolist() == listing["path"].tolist()
    wrong = truth["label_index"] != listing["label"]
    assert (wrong == truth["relabelled"]).all()
    assert (truth["label_index"] == class_of_t_score(truth["measured_t_score"])).all()
    originals = truth[truth["fault"] == ""]
    assert (originals.groupby("patient").size() == 2).all()
    assert (originals.groupby("patient")["side"].nunique() == 2).all()
    assert (originals.groupby("patient")["measured_t_score"].nunique() == 1).all()


def test_each_kind_of_fault_is_planted_as_recorded(simulated, listing, truth):
    sha = listing.set_index("path")["sha256"]
    copies = truth[truth["fault"] != ""]
    assert copies["fault"].value_counts().to_dict() == dict.fromkeys(FAULTS, 2)
    assert copies["source"].is_unique
    for copy in copies.itertuples():
        image, source = (read_image(simulated / path) for path in (copy.path, copy.source))
        masks = simulation.read_mask(simulated, copy.path)
        original = simulation.read_mask(simulated, copy.source)
        assert (sha[copy.path] == sha[copy.source]) == (copy.fault_detail == "same bytes")
        assert all(mask.shape == image.shape for mask in masks.values())
        if copy.fault in ("cropped", "close-up"):  # which part it was is not recorded
            assert image.shape == source.shape
            assert copy.fault != "close-up" or copy.fault_detail.startswith("to 50% of each side")
            continue
        image, masks = undone(copy, image), {n: undone(copy, m) for n, m in masks.items()}
        if copy.fault == "resized":
            assert 0.55 < len(image) / len(source) < 0.95
        inside = undone(copy, np.full(read_image(simulated / copy.path).shape, 255, np.uint8)) > 0
        same_size = np.asarray(Image.fromarray(image).resize(source.shape[::-1]))
        inside = np.asarray(Image.fromarray(inside).resize(source.shape[::-1]))
        correlation = np.corrcoef(same_size[inside], source[inside])[0, 1]
        assert (-correlation if copy.fault == "inverted" else correlation) > 0.95, copy.fault
        for name in MASKS:
            assert abs(masks[name].mean() - original[name].mean()) < 0.02 + 1 - inside.mean()
            exact = copy.fault not in ("resized", "rotated")
            assert not exact or (masks[name] == original[name]).all()


def undone(copy, image):
    """What was done to where things are in the film, or its mask, undone."""
    if copy.fault == "mirrored":
        return image[:, ::-1]
    if copy.fault == "padded":
        edge = int(copy.fault_detail.split()[1])
        return image[edge:-edge, edge:-edge]
    if copy.fault == "rotated":
        return np.asarray(Image.fromarray(image).rotate(-float(copy.fault_detail.split()[1])))
    return image


def test_a_part_is_cut_alike_from_film_and_mask(simulated):
    """Where the film has its one bright square, the mask has it too."""
    film = np.zeros((60, 60), np.uint8)
    film[26:34, 26:34] = 255
    cut = simulation._cut(*(Image.fromarray(film),) * 2, 0.9, np.random.default_rng(0))
    image, mask, detail = np.asarray(cut[0]) > 127, np.asarray(cut[1]) > 127, cut[2]
    assert detail == "to 90% of each side, then enlarged"
    assert (image != mask).mean() < 0.01
    assert mask.sum() == pytest.approx(64 / 0.9**2, rel=0.15)


def test_the_plan_of_the_quick_corpus_never_changes():
    """Published results rest on it. Fractions are left out: their last bit may differ."""
    patients = get_profile("quick").patients
    rng = np.random.default_rng(np.random.SeedSequence(0).spawn(1)[0])
    files = simulation._draw_files(patients, Population(), True, rng)
    assert files["fault"].value_counts().to_dict() == {"": 1280, **dict.fromkeys(FAULTS, 20)}
    columns = ["path", "patient", "side", "site", "label_index", "folder", "fault", "how", "source"]
    assert rows_digest(files, columns).startswith("4a8150a5a1df7d29")


def test_metadata_does_not_give_the_copies_away(listing, truth):
    copies = truth["fault"] != ""
    originals = set(listing.loc[~copies, "patient"])
    assert listing.loc[copies, "patient"].is_unique
    assert not originals & set(listing.loc[copies, "patient"])
    assert (listing.loc[~copies, "patient"] == truth.loc[~copies, "patient"]).all()


def test_site_c_is_the_planted_shortcut(listing, truth):
    site_c = listing["site"] == "C"
    fresh = truth["fault"] == ""
    assert site_c.any()
    assert set(listing.loc[site_c & fresh, "format"]) == {"PNG"}
    assert set(listing.loc[~site_c, "format"]) == {"JPEG"}
    assert (truth.loc[site_c, "marker_style"] == "white box").all()
    assert not (truth.loc[~site_c, "marker_style"] == "white box").any()
    assert (truth.loc[site_c, "label_index"] == 2).mean() > 0.5


def test_masks_are_read_by_name(simulated, listing):
    masks = simulation.read_mask(simulated, listing["path"][0])
    assert tuple(masks) == MASKS
    image = read_image(simulated / listing["path"][0])
    assert all(mask.shape == image.shape and mask.dtype == bool for mask in masks.values())
    assert masks["joint"].any()
    assert not (masks["joint"] & masks["cortex"]).all()


def test_without_faults_nothing_is_copied(tmp_path):
    root = make_simulated(tmp_path / "clean", 10, 32, faults=False, workers=1)
    assert (read_truth(root)["fault"] == "").all()
    assert list_corpus(root)["sha256"].is_unique


def test_another_corpus_is_never_overwritten(simulated, tmp_path):
    before = hashes(simulated)
    assert make_simulated(simulated, 24, 96) == simulated
    with pytest.raises(CorpusError, match=r"simulated: expected a corpus made with .*'seed': 1"):
        make_simulated(simulated, 24, 96, seed=1)
    assert hashes(simulated) == before
    foreign = write(tmp_path / "mine", "thesis.txt")
    with pytest.raises(CorpusError, match=r"mine: expected .* found no corpus\.json"):
        make_simulated(foreign, 24, 96)


@pytest.mark.parametrize(("patients", "size"), [(0, 96), (9, 96), (24, 31), (-5, -5)])
def test_too_small_a_corpus_is_refused(tmp_path, patients, size):
    with pytest.raises(CorpusError, match="at least 10 patients and 32 pixels"):
        make_simulated(tmp_path / "tiny", patients, size)


def test_truth_and_masks_of_other_corpora_are_refused(tmp_path, simulated):
    with pytest.raises(CorpusError, match=r"truth\.csv: expected a simulated corpus"):
        read_truth(tmp_path)
    with pytest.raises(CorpusError, match=r"Normal 999\.jpg\.png: expected"):
        simulation.read_mask(simulated, "OS Collected Data/Normal/Normal 999.jpg")


def test_a_killed_build_leaves_nothing_and_its_remains_are_cleaned_up(tmp_path):
    root = tmp_path / "corpus"
    code = "from osteo_utils.phantom.corpus import make_simulated as make; import sys;"
    code += "make(sys.argv[1], 400, 128, workers=1)"
    build = subprocess.Popen([sys.executable, "-c", code, str(root)])
    try:
        deadline = time.monotonic() + 30
        while not any(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        build.kill()
        build.wait()
    assert not root.exists()
    assert (tmp_path / ".part-corpus").is_dir()
    make_simulated(root, 10, 32, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".corpus.lock", "corpus"]


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(simulation, "_write_tables", fail)
    with pytest.raises(OSError, match="disk full"):
        make_simulated(tmp_path / "corpus", 10, 32, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == [".corpus.lock"]


# ---- the best possible ---------------------------------------------------------------------------


@pytest.mark.parametrize("population", [Population(), Population(mean=-0.5, sd=1.0, error=0.6)])
def test_best_possible_against_monte_carlo(population):
    rng = np.random.default_rng(0)
    t = np.clip(rng.normal(population.mean, population.sd, 1_000_000), -5, 3)
    label = class_of_t_score(t + rng.normal(0, population.error, len(t)))
    edges = np.round(t, 2)  # the empirical Bayes rule on bins of T
    table = pd.crosstab(edges, label).to_numpy()
    expected = best_possible(population)
    assert table.max(axis=1).sum() / len(t) == pytest.approx(expected["accuracy"], abs=3e-3)
    balanced = (table / table.sum(axis=0)).max(axis=1).sum() / 3
    assert balanced == pytest.approx(expected["balanced_accuracy"], abs=3e-3)


def test_best_possible_without_measurement_error_is_one():
    scores = best_possible(Population(error=1e-9))
    assert scores["accuracy"] == pytest.approx(1, abs=1e-6)
    assert scores["balanced_accuracy"] == pytest.approx(1, abs=1e-6)


def test_the_corpus_carries_its_best_possible(simulated):
    info = json.loads((simulated / "corpus.json").read_text())
    assert info["best_possible"] == best_possible()
    assert info["settings"]["patients"] == 24


# ---- listing any folder --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        (".", ("Normal", "Osteopenia", "Osteoporosis")),
        (".", ("normal", "OSTEOPENIA", "Osteoporosis ")),
        ("OS Collected Data", ("Normal", "Osteopenia", "Osteoporosis")),
        ("a/b/c", ("normal", "osteopenia", "osteoporosis")),
    ],
)
def test_class_folders_are_found(tmp_path, prefix, names):
    write(tmp_path, *(f"{prefix}/{name}/{n}.png" for name in names for n in (10, 9)))
    table = list_corpus(tmp_path)
    assert table["label"].tolist() == [0, 0, 1, 1, 2, 2]
    assert [Path(path).stem for path in table["path"]] == ["9", "10"] * 3  # sorted naturally
    assert (table[["patient", "site", "side"]] == "").all(axis=None)


def test_hidden_files_and_leftovers_are_ignored(small):
    write(small, "Normal/.DS_Store", "__MACOSX/Normal/1.png", "Normal/Thumbs.db", "notes.txt")
    write(small, "Normal/Icon\r", "Normal/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "desktop.ini")
    assert len(list_corpus(small)) == 3


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ((), "no folder below it"),
        (("1.png", "2.png"), "no folder below it"),
        (("cats/1.png", "dogs/1.png"), "cats, dogs"),
        (("Normal/1.png", "Osteoporosis/1.png"), "Normal, Osteoporosis"),
        (("Normal/1.png", "Osteopenia/1.png", "Osteoporosis/.hidden"), "Normal, Osteopenia"),
        (tuple(f"a/b/c/d/e/{name}/1.png" for name in CLASS_NAMES), "a, b, c, d"),
    ],
    ids=["empty", "no folders", "other folders", "two classes", "an empty class", "too deep"],
)
def test_a_folder_without_the_classes_is_refused(tmp_path, paths, found):
    root = write(tmp_path / "radiographs", *paths)
    root.mkdir(exist_ok=True)
    for use in (list_corpus, lambda folder: open_corpus(str(folder), get_profile("smoke"))):
        with pytest.raises(CorpusError) as caught:
            use(root)
        assert "radiographs: expected files in sub-folders named Normal" in str(caught.value)
        assert found in str(caught.value)


def test_one_bad_file_never_ends_a_listing(tmp_path):
    write(tmp_path, *one_of_each(*range(1, 31)))
    (tmp_path / "Normal/7.png").write_bytes(b"")
    (tmp_path / "Normal/8.png").write_bytes(png()[:40])
    (tmp_path / "Osteopenia/9.png").write_text("not an image")
    (tmp_path / "Osteopenia/link.png").symlink_to(tmp_path / "nowhere")
    table = list_corpus(tmp_path)
    assert len(table) == 91
    bad = table[table["problem"] != ""]
    assert [Path(p).name for p in bad["path"]] == ["7.png", "8.png", "9.png", "link.png"]
    for row in bad.itertuples():
        assert row.path in row.problem
        assert row.width == row.height == 0
    assert table["width"].dtype == np.int64


def test_whatever_a_decoder_raises_never_ends_a_listing(small, monkeypatch):
    def probe(path, data):
        if "Normal" in str(path):
            raise TypeError("Cannot handle\nthis data type: (1, 1, 64), |u1")
        return ImageFacts("PNG", "L", 6, 8)

    monkeypatch.setattr(corpus, "probe", probe)
    table = list_corpus(small).set_index("path")
    assert table["problem"].map(bool).tolist() == [True, False, False]
    assert r"Cannot handle\x0athis data type" in table["problem"].iloc[0]
    assert "Normal/1.png: TypeError" in table["problem"].iloc[0]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\xd5\xfd.png", r"\xd5\xfd.png"),
        (b"cr\rname.png", r"cr\x0dname.png"),
        (b"a\nb", r"a\x0ab"),
    ],
    ids=["GBK", "carriage return", "line break"],
)
def test_a_name_that_no_table_can_hold_is_told_and_the_others_are_listed(tmp_path, name, shown):
    write(tmp_path, *one_of_each(1, 2))
    (tmp_path / "Normal" / os.fsdecode(name)).write_bytes(png())
    table = list_corpus(tmp_path)
    assert len(table) == 7
    bad = table[table["problem"] != ""]
    assert bad["path"].tolist() == [f"Normal/{shown}"]
    assert bad["problem"].item().startswith(f"Normal/{shown}: expected a name in UTF-8 without")
    table.to_csv(tmp_path / "table.csv", index=False)
    again = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert again["path"].tolist() == table["path"].tolist()


def test_names_in_any_script_are_whole(small):
    names = ["膝 1.png", "Knie (ä), rechts.png", "a\u202fb.png", r"\xd5.png"]
    write(small, *(f"Normal/{name}" for name in names))
    assert (list_corpus(small)["problem"] == "").all()


def test_the_commands_survive_names_that_are_no_utf8(tmp_path):
    for value, path in enumerate(one_of_each(*range(4))):
        write(tmp_path / "knees", path, data=png(20 * value))
    (tmp_path / "knees/Normal" / os.fsdecode(b"\xd5\xfd.png")).write_bytes(png(250))
    for command in ("corpus", "audit"):
        line = [sys.executable, "-m", "osteo_utils", command, str(tmp_path / "knees")]
        line += ["--profile", "smoke", "--runs", str(tmp_path / "runs")]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "13" in done.stdout  # files, one of them unreadable


def test_class_folders_may_be_links_and_circles_end(tmp_path):
    store = write(tmp_path / "store", *(f"{n}/{k}.png" for n in (0, 1, 2) for k in (1, 2)))
    (tmp_path / "knees").mkdir()
    for label, name in enumerate(CLASS_NAMES):
        (tmp_path / "knees" / name).symlink_to(store / str(label), target_is_directory=True)
    (store / "0" / "up").symlink_to(store, target_is_directory=True)
    (store / "1" / "self").symlink_to(store / "1", target_is_directory=True)
    (store / "2" / "loop").symlink_to(store / "2" / "loop")
    table = list_corpus(tmp_path / "knees")
    paths = table.loc[table["problem"] == "", "path"].tolist()
    assert paths[-2:] == ["Osteoporosis/1.png", "Osteoporosis/2.png"]
    assert {"Normal/1.png", "Osteopenia/2.png"} <= set(table["path"])
    assert not table["path"].str.contains("self|up/0").any()


def test_a_folder_that_cannot_be_read_is_named(small, monkeypatch):
    iterdir = Path.iterdir

    def closed(path):
        if path.name == "Osteopenia":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(CorpusError, match="Osteopenia: expected a folder that can be read"):
        list_corpus(small)


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, so that a test need not wait two seconds."""
    monkeypatch.setattr(corpus, "_SETTLED", 0)


def read_count(monkeypatch):
    read, seen = corpus.read_bytes, []
    monkeypatch.setattr(corpus, "read_bytes", lambda path: seen.append(path.name) or read(path))
    return seen


@pytest.mark.usefixtures("settled")
def test_unchanged_films_are_not_read_again(tmp_path, monkeypatch):
    root = write(tmp_path / "knees", *one_of_each(1, 2))
    (root / "Normal/bad.png").write_bytes(b"oops")
    cache, seen = tmp_path / "runs" / "listing.json", read_count(monkeypatch)
    first = list_corpus(root, cache)
    assert len(seen) == 7
    pd.testing.assert_frame_equal(list_corpus(root, cache), first)
    assert seen[7:] == ["bad.png"]  # a decoder that was installed since may read it
    cache.write_text("{")
    pd.testing.assert_frame_equal(list_corpus(root, cache), first)
    monkeypatch.setattr(corpus, "decoder", lambda: "another")
    del seen[:]
    list_corpus(root, cache)
    assert len(seen) == 7


@pytest.mark.usefixtures("settled")
def test_replaced_added_and_removed_films_are_seen_at_once(tmp_path, monkeypatch):
    root = write(tmp_path / "knees", *one_of_each(1, 2))
    cache = tmp_path / "listing.json"
    list_corpus(root, cache)
    film = root / "Normal/1.png"
    times = film.stat().st_atime_ns, film.stat().st_mtime_ns
    film.write_bytes(png(77))  # as many bytes as before
    os.utime(film, ns=times)  # and, as `cp -p` leaves it, of the same time
    (root / "Normal/2.png").unlink()
    write(root, "Normal/3.png")
    (root / "Osteopenia/1.png").rename(root / "Normal/4.png")
    pd.testing.assert_frame_equal(list_corpus(root, cache), list_corpus(root))


def test_a_film_of_this_very_moment_is_not_taken_from_the_cache(small, tmp_path, monkeypatch):
    seen = read_count(monkeypatch)
    for _ in range(2):
        list_corpus(small, tmp_path / "listing.json")
    assert len(seen) == 6


def test_a_listing_writes_nothing_into_the_folder(small, tmp_path):
    before = hashes(small)
    assert open_corpus(str(small), get_profile("smoke"), tmp_path / "x") == small
    list_corpus(small)
    assert hashes(small) == before


def test_metadata_is_read_where_it_is(small):
    (small / "metadata.csv").write_text("path,patient,side,site\nNormal/1.png,007,L,NA\n")
    table = list_corpus(small)
    assert table["patient"].tolist() == ["007", "", ""]
    assert table["site"].tolist() == ["NA", "", ""]


def test_titles_of_metadata_may_have_capitals_and_blanks(small):
    (small / "metadata.csv").write_text("Path, Patient,SIDE ,Site\nNormal/1.png,007,L,A\n")
    first = list_corpus(small).loc[0, ["patient", "side", "site"]]
    assert first.tolist() == ["007", "L", "A"]


def test_the_bar_of_a_listing_runs_to_its_end(small, capsys, monkeypatch):
    monkeypatch.delenv("OSTEO_PROGRESS", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list_corpus(small)
    assert "3/3" in capsys.readouterr().err


def test_a_foreign_metadata_table_is_left_aside_and_said(small, capsys):
    (small / "metadata.csv").write_text("id,age,image_path\n1,70,x.png\n")
    for _ in range(2):
        assert (list_corpus(small)[["patient", "site", "side"]] == "").all(axis=None)
    said = capsys.readouterr().err
    assert said.count("metadata.csv: left aside, for it has no column path") == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("path;patient;side;site\nNormal/1.png;1;L;A\n", "Save it again as CSV with commas"),
        ("file,patient,side,site\nNormal/1.png,1,L,A\n", "Add path."),
        ("path,PATH,patient,side,site\nNormal/1.png,x,1,L,A\n", "each column once"),
        ("", "expected a CSV table"),
        ("path,patient\nNormal/1.png,1\n", "Add side, site"),
        ("path,patient,side,site\nNormal/2.png,1,L,A\n", "'Normal/2.png'"),
        ("path,patient,side,site\nNormal/1.png,1,L,A\nNormal/1.png,2,L,A\n", "once"),
        ("path,patient,side,site\nNormal/1.png,1,L,A,extra,more\n", "metadata.csv"),
        (b"\xff\xfe\x00path", "expected a CSV table"),
    ],
    ids=[
        *("semicolons", "patients without path", "two columns of one name", "empty", "columns"),
        *("unknown path", "twice", "ragged", "not text"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(small, text, found):
    data = text if isinstance(text, bytes) else text.encode()
    (small / "metadata.csv").write_bytes(data)
    with pytest.raises(CorpusError, match=r"metadata\.csv: expected") as caught:
        list_corpus(small)
    assert found in str(caught.value)


def test_the_real_radiographs_list_whole(real_knees):
    table = list_corpus(real_knees)
    assert table["label"].value_counts().sort_index().tolist() == [36, 154, 49]
    assert (table["problem"] == "").all()
    assert table["sha256"].nunique() == 217
    assert table["path"].iloc[1].endswith("N2.JPEG")


# ---- zips ----------------------------------------------------------------------------------------


def make_zip(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


GOOD = [
    (f"{IMAGE_FOLDER}/{name}/{name} {n}.png", png(n))
    for name, count in zip(CLASS_NAMES, (4, 2, 3), strict=True)
    for n in range(count)
]
LINK = zipfile.ZipInfo("Normal/link.png")
LINK.external_attr = 0o120777 << 16


def zipped(entries):
    buffer = io.BytesIO()
    make_zip(buffer, entries)
    return buffer.getvalue()


def broken_member():
    data = bytearray(zipped(GOOD))
    data[data.find(b"IDAT") + 6] ^= 0xFF
    return bytes(data)


BAD_ZIPS = {
    "empty": (b"", "whole zip"),
    "not a zip": (b"Rar!" * 50, "whole zip"),
    "truncated": (zipped(GOOD)[:-200], "whole zip"),
    "damaged member": (broken_member(), "whole zip"),
    "parent path": (zipped([*GOOD, ("../evil.png", png())]), "outside"),
    "deep parent path": (zipped([*GOOD, ("Normal/../../evil.png", png())]), "outside"),
    "absolute path": (zipped([*GOOD, ("/tmp/evil.png", png())]), "outside"),
    "drive": (zipped([*GOOD, ("C:\\evil.png", png())]), "outside"),
    "backslashes": (zipped([*GOOD, ("..\\evil.png", png())]), "outside"),
    "symbolic link": (zipped([*GOOD, (LINK, "/etc/passwd")]), "symbolic"),
    "no classes": (zipped([("cats/1.png", png())]), "cats"),
    "one class": (zipped([("Normal/1.png", png())]), "Normal"),
}


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_bad_zips_are_refused_and_leave_nothing(tmp_path, kind):
    data, found = BAD_ZIPS[kind]
    archive = tmp_path / "knees.zip"
    archive.write_bytes(data)
    home = tmp_path / "home"
    with pytest.raises(CorpusError) as caught:
        unpack(archive, home / "knees")
    assert "knees" in str(caught.value)
    assert found in str(caught.value)
    assert not nonempty(home)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "knees.zip"]


@pytest.mark.parametrize("prefix", ["", "knees\\"])
def test_a_zip_with_backslashes_is_unpacked_into_folders(tmp_path, prefix):
    with zipfile.ZipFile(tmp_path / "knees.zip", "w") as archive:
        for folder in CLASS_NAMES:
            archive.writestr(entry(f"{prefix}{folder}\\"), b"")
        for name, data in GOOD:
            archive.writestr(entry(prefix + name.partition("/")[2].replace("/", "\\")), data)
    root = unpack(tmp_path / "knees.zip", tmp_path / "knees")
    table = list_corpus(root)
    assert table["label"].value_counts().sort_index().tolist() == [4, 2, 3]
    assert table["path"].iloc[0] == f"{prefix}Normal/Normal 0.png".replace("\\", "/")


def entry(name):
    """A zip entry with exactly this name; `ZipInfo` itself would turn some."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


def test_a_name_whose_second_byte_is_a_backslash_stays_one_name(tmp_path):
    odd = (entry("Normal/\N{LATIN SMALL LETTER A WITH CIRCUMFLEX}\\.png"), png())  # Shift-JIS
    root = unpack(make_zip(tmp_path / "knees.zip", [*GOOD, odd]), tmp_path / "knees")
    assert (root / "Normal" / "â\\.png").is_file()


def test_a_full_disk_is_told_before_unpacking(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "knees.zip", GOOD)
    needed = sum(len(data) for _, data in GOOD)
    usage = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CorpusError, match=rf"knees\.zip: expected {needed} bytes free on the disk"):
        unpack(archive, tmp_path / "home" / "knees")
    assert not nonempty(tmp_path / "home")
    usage.free = needed
    unpack(archive, tmp_path / "home" / "knees")


def test_a_zip_that_python_cannot_unpack_says_what_helps(tmp_path):
    archive = make_zip(tmp_path / "knees.zip", GOOD)
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.find(signature) + offset] = 9  # Deflate64, as Windows writes beyond 2 GB
    archive.write_bytes(data)
    with pytest.raises(CorpusError, match="Unpack it with another program and give the path"):
        unpack(archive, tmp_path / "knees")


@pytest.mark.parametrize("kind", ["no classes", "one class"])
def test_a_message_about_a_zip_names_the_zip(tmp_path, kind):
    (tmp_path / "knees.zip").write_bytes(BAD_ZIPS[kind][0])
    with pytest.raises(CorpusError, match=r"^\S*/knees\.zip: expected files in sub-folders"):
        unpack(tmp_path / "knees.zip", tmp_path / "home" / "knees")


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    entries = [*GOOD, ("Normal/big.png", bytes(2_000_000))]
    archive = make_zip(tmp_path / "knees.zip", entries, compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archives, "MAX_UNPACKED", 1_000_000)
    with pytest.raises(CorpusError, match=r"knees\.zip: expected at most"):
        unpack(archive, tmp_path / "knees")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(CorpusError, match="3 files"):
        unpack(archive, tmp_path / "knees")


def test_a_zip_is_unpacked_once(tmp_path):
    archive = make_zip(tmp_path / "My knees.ZIP", [*GOOD, ("__MACOSX/Normal/x.png", b"junk")])
    profile = get_profile("smoke")
    root = open_corpus(str(archive), profile, tmp_path / "home")
    assert root == tmp_path / "home" / corpus_name(str(archive))
    assert root.name.startswith("My-knees-")
    assert len(list_corpus(root)) == 9
    marker = root / IMAGE_FOLDER / "Normal" / "Normal 0.png"
    stamp = marker.stat().st_mtime_ns
    assert open_corpus(str(archive), profile, tmp_path / "home") == root
    assert marker.stat().st_mtime_ns == stamp
    make_zip(archive, GOOD[:-1])
    with pytest.raises(CorpusError, match=r"My-knees-[0-9a-f]{6}: expected the unpacked"):
        open_corpus(str(archive), profile, tmp_path / "home")


def test_a_missing_zip_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"absent\.zip: expected a zip, found no such file"):
        unpack(tmp_path / "absent.zip", tmp_path / "absent")
    with pytest.raises(CorpusError, match=r"absent\.zip.*found no such path"):
        open_corpus(str(tmp_path / "absent.zip"), get_profile("smoke"), tmp_path)


def test_corpus_names(tmp_path):
    assert corpus_name("simulated") == "simulated"
    assert corpus_name("kaggle") == "kaggle"
    assert corpus_name("/films/Hospital v1.2.zip") == "Hospital-v1.2-e5f1a5"
    assert corpus_name("/films/knees/") == corpus_name("/films/x/../knees")


@pytest.mark.parametrize("name", ["007", "1e3", "my knees", "{}", "*", "膝", "-rf", ".", "a" * 300])
def test_the_name_of_a_folder_is_safe_in_paths_and_commands(name):
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,39}-[0-9a-f]{6}", corpus_name(f"/x/{name}"))


def test_folders_of_one_name_and_a_zip_are_different_corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = ["a/knees", "b/knees", "a/knees.zip", "kaggle/", "./simulated"]
    slugs = [corpus_name(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert slugs[3:] == [corpus_name(str(tmp_path / name)) for name in ("kaggle", "simulated")]
    assert corpus_name("~/a/knees") == slugs[0]
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert corpus_name("link/knees") == slugs[0]


# ---- what names the films ------------------------------------------------------------------------


def test_films_are_named_by_the_settings_that_made_them_or_by_their_files(simulated, tmp_path):
    root = shutil.copytree(simulated, tmp_path / "copy")
    made = corpus.films_digest(root, list_corpus(root))
    info = json.loads((root / "corpus.json").read_text())
    settings = json.dumps(info["settings"], sort_keys=True).encode()
    assert made == hashlib.sha256(settings).hexdigest()
    assert corpus.films_digest(root, list_corpus(root).iloc[::-1]) == made
    film = root / list_corpus(root)["path"][0]
    film.write_bytes(film.read_bytes() + b"\0")
    changed = list_corpus(root)
    assert corpus.films_digest(root, changed) == rows_digest(changed, ("path", "sha256")) != made
    (root / "corpus.json").unlink()
    assert corpus.films_digest(root, changed) == rows_digest(changed, ("path", "sha256"))


def test_another_encoder_gives_the_same_films(tmp_path, monkeypatch):
    one = make_simulated(tmp_path / "one", 10, 32, workers=1)
    save = Image.Image.save

    def worse(image, path, quality=75):
        save(image, path, quality=quality - 5)

    monkeypatch.setattr(Image.Image, "save", worse)
    two = make_simulated(tmp_path / "two", 10, 32, workers=1)
    digests = [corpus.films_digest(root, list_corpus(root)) for root in (one, two)]
    assert hashes(one) != hashes(two)
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b'{"settings": {}}',
        b'{"settings": {}, "best_possible": {}}',
        b"null",
        b"7",
    ],
)
def test_a_damaged_corpus_json_is_named(simulated, tmp_path, text):
    root = shutil.copytree(simulated, tmp_path / "copy")
    (root / "corpus.json").write_bytes(text)
    with pytest.raises(CorpusError, match=r"corpus\.json: expected the settings of a"):
        make_simulated(root, 24, 96)
    with pytest.raises(CorpusError, match=r"corpus\.json: expected the settings of a"):
        corpus.films_digest(root, list_corpus(root))


@pytest.mark.parametrize("text", ['{"images": []}', '{"settings": {"theme": "dark"}}', "{", "3"])
def test_the_corpus_json_of_another_program_is_left_aside(tmp_path, text):
    root = write(tmp_path / "mine", *one_of_each(1))
    (root / "corpus.json").write_text(text)
    listed = list_corpus(root)
    assert corpus.films_digest(root, listed) == rows_digest(listed, ("path", "sha256"))
    before = hashes(root)
    with pytest.raises(CorpusError, match="mine: expected a corpus made with") as caught:
        make_simulated(root, 24, 96)
    assert "Choose another folder" in str(caught.value)  # nobody is told to remove their films
    assert hashes(root) == before


def test_open_corpus_makes_the_simulated_one_for_the_profile(tmp_path, simulated):
    shutil.copytree(simulated, tmp_path / "simulated-smoke")
    assert open_corpus("simulated", get_profile("smoke"), tmp_path).name == "simulated-smoke"
    (tmp_path / "simulated-quick").mkdir()
    with pytest.raises(CorpusError, match="simulated-quick"):
        open_corpus("simulated", get_profile("quick"), tmp_path)


# ---- fetching ------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """A local web server; its answers are (status, claimed length, body) by path."""
    answers, hashes = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, length, body = answers[self.path]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/good")
            self.send_header("Content-Length", str(length))
            for told in hashes:
                self.send_header("x-goog-hash", told)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    running.hashes = hashes
    running.answers, running.url = answers, f"http://127.0.0.1:{running.server_port}"
    body = zipped(GOOD)
    answers["/good"] = (200, len(body), body)
    yield running
    running.shutdown()
    running.server_close()


COUNTS = (4, 2, 3)


@pytest.mark.parametrize("path", ["/good", "/redirect"])
def test_fetch_puts_a_checked_set_in_place(tmp_path, server, capsys, path):
    server.answers["/redirect"] = (302, 0, b"")
    root = corpus.fetch_kaggle(tmp_path / "kaggle", server.url + path, COUNTS)
    assert "licence" in capsys.readouterr().out
    assert list_corpus(root)["label"].value_counts().sort_index().tolist() == [4, 2, 3]
    assert [p.name for p in root.iterdir()] == [IMAGE_FOLDER]
    assert nonempty(tmp_path) == ["kaggle"]
    server.answers.clear()  # a second call asks nobody
    assert corpus.fetch_kaggle(root, server.url + "/good", COUNTS) == root


SLIP = zipped([*GOOD, ("../x", b"")])
BAD_ANSWERS = {
    "broken off": ((200, len(zipped(GOOD)), zipped(GOOD)[:500]), COUNTS, "the end after 500"),
    "truncated zip": ((200, 500, zipped(GOOD)[:500]), COUNTS, "whole zip"),
    "a login page": ((200, 20, b"<html>Log in</html>!"), COUNTS, "whole zip"),
    "nothing": ((200, 0, b""), COUNTS, "whole zip"),
    "wrong counts": ((200, len(zipped(GOOD)), zipped(GOOD)), (4, 2, 4), "found (4, 2, 3)"),
    "zip slip": ((200, len(SLIP), SLIP), COUNTS, "outside"),
    "not found": ((404, 0, b""), COUNTS, "404"),
    "forbidden": ((403, 0, b""), COUNTS, "403"),
    "server error": ((500, 0, b""), COUNTS, "500"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_bad_download_leaves_nothing(tmp_path, server, kind):
    answer, counts, found = BAD_ANSWERS[kind]
    server.answers["/set"] = answer
    with pytest.raises(CorpusError) as caught:
        corpus.fetch_kaggle(tmp_path / "kaggle", server.url + "/set", counts)
    assert "kaggle" in str(caught.value) or "/set" in str(caught.value)
    assert found in str(caught.value)
    assert not nonempty(tmp_path)


def md5_of(body):
    return "md5=" + base64.b64encode(hashlib.md5(body).digest()).decode()


@pytest.mark.parametrize("joined", [True, False])
def test_a_download_is_held_against_the_md5_that_the_server_tells(tmp_path, server, joined):
    right, wrong = md5_of(server.answers["/good"][2]), md5_of(b"another set")
    for told in (wrong, right):
        server.hashes[:] = [f"crc32c=n03x6A==,{told}"] if joined else ["crc32c=n03x6A==", told]
        if told == wrong:
            with pytest.raises(CorpusError, match=r"/good: expected MD5 [0-9a-f]{32}, found"):
                corpus.fetch_kaggle(tmp_path / "kaggle", server.url + "/good", COUNTS)
            assert not nonempty(tmp_path)
    assert corpus.fetch_kaggle(tmp_path / "kaggle", server.url + "/good", COUNTS).is_dir()


def test_a_full_disk_is_told_before_the_download(tmp_path, server, monkeypatch):
    length = server.answers["/good"][1]
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=length - 1))
    with pytest.raises(CorpusError, match=f"/good: expected {length:,} bytes free on the disk"):
        corpus.fetch_kaggle(tmp_path / "kaggle", server.url + "/good", COUNTS)
    assert not nonempty(tmp_path)


def test_the_public_set_is_asked_for_in_one_version():
    assert corpus.KAGGLE_URL.endswith(f"/{corpus.KAGGLE_SET}?datasetVersionNumber=1")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/set", "http://no-such-host.invalid/x", "oops"])
def test_an_unreachable_host_says_what_to_do(tmp_path, url):
    with pytest.raises(CorpusError, match=r"expected a zip, found .* give the path of a download"):
        corpus.fetch_kaggle(tmp_path / "kaggle", url, COUNTS)
    assert not nonempty(tmp_path)
