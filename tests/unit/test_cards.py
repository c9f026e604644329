"""Cards: every number from the run, no field empty."""

import json
import re
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from tiny_runs import make_run

from osteo_utils.chapters import cards
from osteo_utils.chapters.cards import CardError, read_findings, saliency_card
from osteo_utils.data.audit import Audit, write_audit
from osteo_utils.data.splits import split_hash, write_split
from osteo_utils.networks.saved import load_model
from osteo_utils.runs import PROBABILITY_COLUMNS, RunError, model_digest, read_run
from osteo_utils.saliency.gradcam import METHODS
from osteo_utils.scoring.evaluate import bootstrap, temperature, tempered

sys.path.append(str(Path(__file__).resolve().parents[2] / "book"))
import stage

RESAMPLES = 50  # of the profile smoke


def films():
    """Eighteen films, six in each part; site A has the even ones, C the odd ones of class 2."""
    labels = [0, 0, 1, 1, 2, 2] * 3
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(18)], "label": labels})
    table = table.assign(group=range(18), part=np.repeat(["train", "validation", "test"], 6))
    table["sha256"] = [f"{i:064d}" for i in range(18)]
    sites = ["C" if label == 2 and i % 2 else "A" for i, label in enumerate(labels)]
    return table.assign(site=sites)


def audit_of(table, site):
    keep = [*[True] * 18, False]
    blank = ("patient", "side", "mode", "problem", "reason", "format", "extension")
    copy = table.iloc[:1].assign(path="copy.png")
    images = pd.concat([table, copy]).drop(columns="part").assign(keep=keep)
    images = images.assign(**dict.fromkeys(blank, ""))
    images = images if site else images.assign(site="")
    nothing = pd.DataFrame({"kind": []})
    return Audit(images, nothing, nothing, nothing)


def a_run(folder, table, seed, **changes):
    rows = table[table["part"] != "train"][["path", "group", "part", "label"]]
    called = rows["label"].where(rows["path"] != "14.png", 0)  # one Osteopenia of the test part
    p = (0.1 + 0.7 * np.eye(3))[called]
    rows = rows.assign(**dict(zip(PROBABILITY_COLUMNS, p.T, strict=True)))
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    facts = {"trained": keras.Sequential([keras.Input((96, 96, 1)), *layers]), "rows": rows}
    facts |= {"preprocessing": "0..1", "split_hash": split_hash(table), "batch_size": 16}
    facts |= {"epochs_run": 8, "best_epoch": 7, "seconds": 123.4, "device": "cpu"}
    facts |= {"precision": "float32", "weights": None, "finished": "2026-01-02T03:04:05+00:00"}
    facts |= {"versions": {"keras": "3.15.1"}, "parameters": 393219}
    return make_run(folder, size=96, seed=seed, folder=folder, **facts | changes)


def saliency_of(model="custom_cnn", run="0" * 64):
    rows = [
        {"method": method, "metric": metric, "value": value / 100}
        for value, method in enumerate(METHODS, start=31)
        for metric in ("pointing_game", "share_inside")
    ]
    return pd.DataFrame(rows).assign(model=model, low=0.1, high=0.9, run=run)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "simulated" / "smoke"
    folder.mkdir(parents=True)
    write_split(films().drop(columns="site"), folder / "split.csv")
    write_audit(audit_of(films(), True), folder)
    for seed in (0, 1):
        run = a_run(folder / "custom_cnn" / f"seed{seed}", films(), seed)
    saliency_of(run=model_digest(run)).to_csv(folder / "saliency.csv", index=False)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of everything that a test may change."""
    return shutil.copytree(made, tmp_path / "runs" / "simulated" / "smoke")


def card(folder):
    runs = [read_run(folder / "custom_cnn" / f"seed{seed}") for seed in (0, 1)]
    return cards.model_card(runs, read_findings(folder))


def models_of(folder):
    return cards.read_models(folder, [folder / "custom_cnn" / f"seed{seed}" for seed in (0, 1)])


def write_cards(folder, target):
    return cards.write_cards(models_of(folder), read_findings(folder), target)


def section(page, title):
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_a_card_has_every_field_and_says_what_the_run_says(folder):
    page = card(folder)
    titles = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert titles == [
        *("Use and misuse", "Model", "Data", "Scores", "By class", "By site", "Calibration"),
        *("Saliency", "Limits", "Licence", "Cost"),
    ]
    assert page.startswith("# Model card: Custom CNN\n\n:::{warning}")
    assert "393,219" in section(page, "Model")
    assert split_hash(films()) in section(page, "Data")
    assert "Of 19 files the audit" in section(page, "Data")
    assert "kept 18 and set 1 aside" in section(page, "Data")
    assert "| train | 2 | 2 | 2 | 6 |" in section(page, "Data")
    assert "| accuracy | 0.83 (" in section(page, "Scores")  # five of six
    assert "| Osteopenia | 2 | 1.00 (" in section(page, "By class")
    assert "weakest on Osteopenia: recall 0.50" in section(page, "Limits")
    assert "its scores mean nothing" in section(page, "Limits")
    assert "| 0 | 123 | 8 | cpu | float32 |" in section(page, "Cost")


def test_scores_by_site_are_those_of_its_films(folder):
    text = section(card(folder), "By site")
    # Test films of site C: one Osteoporosis, rightly called. Site A: 5 films, one of them wrong.
    assert "| C | 0, 0, 1 | 1.00 (1.00 to 1.00) | not measurable |" in text
    assert "| A | 2, 2, 1 | 0.80 (" in text


def test_a_corpus_without_sites_says_so(folder):
    write_audit(audit_of(films(), False), folder)
    assert "does not say at which site" in section(card(folder), "By site")


def test_calibration_is_fitted_on_validation_and_told_of_the_test_part(folder):
    run = read_run(folder / "custom_cnn" / "seed0")
    parts = dict(list(run.predictions.groupby("part")))
    p = {part: rows[list(PROBABILITY_COLUMNS)].to_numpy() for part, rows in parts.items()}
    t = temperature(parts["validation"]["label"], p["validation"])
    test = parts["test"]
    after = bootstrap(test["label"], tempered(p["test"], t), test["group"], RESAMPLES, 0)
    low, high = after.loc["ece_if_calibrated", ["low", "high"]]
    text = section(card(folder), "Calibration")
    assert f"is {t:.2f}, where the search ends: before it, the probabilities were too shy" in text
    error = after.loc["ece", "value"]
    assert f"error is {error:.2f} (if calibrated: {low:.2f} to {high:.2f})" in text
    assert "**0.03 (if calibrated: " in text  # 0.8 said, five of six right


@pytest.mark.parametrize(
    ("score", "title"),
    [
        ("balanced_accuracy", "Scores"),
        ("recall_normal", "By class"),
        ("specificity_osteoporosis", "By class"),
    ],
)
def test_a_number_changed_in_the_run_changes_on_the_page(folder, score, title):
    before = section(card(folder), title)
    new = {"value": 0.4321, "low": 0.1234, "high": 0.8765}
    file = folder / "custom_cnn" / "seed0" / "metrics.json"
    change(file, lambda metrics: metrics["test"].update({score: new}))
    after = section(card(folder), title)
    assert "0.43 (0.12 to 0.88)" not in before
    assert "0.43 (0.12 to 0.88)" in after


def test_a_calibration_error_changed_in_the_run_changes_on_the_page(folder):
    new = {"ece": {"value": 0.4321}, "ece_if_calibrated": {"low": 0.1234, "high": 0.8765}}
    file = folder / "custom_cnn" / "seed0" / "metrics.json"
    change(file, lambda metrics: metrics["test"].update(new))
    assert "**0.43 (if calibrated: 0.12 to 0.88)**" in section(card(folder), "Calibration")


def test_a_score_that_could_not_be_measured_is_no_empty_field(folder):
    file = folder / "custom_cnn" / "seed0" / "metrics.json"
    nothing = dict.fromkeys(("value", "low", "high"))
    change(file, lambda metrics: metrics["test"].update({"recall_osteopenia": nothing}))
    page = card(folder)
    assert "not measurable" in section(page, "By class")
    assert "weakest on Normal" in section(page, "Limits")


@pytest.mark.parametrize(
    ("key", "field"),
    [
        *(("seconds", "cost"), ("device", "cost"), ("finished", "model")),
        *(("versions", "model"), ("corpus", "data")),
    ],
)
@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_fact_is_refused_with_field_and_run(folder, key, field, value):
    file = folder / "custom_cnn" / "seed0" / "run.json"
    change(file, lambda info: info.update({key: value}))
    with pytest.raises(CardError, match=f"'{field}'.*'{key}'") as caught:
        write_cards(folder, folder / "cards")
    assert str(folder / "custom_cnn" / "seed0") in str(caught.value)
    assert not (folder / "cards").exists()


def test_a_missing_score_is_refused(folder):
    file = folder / "custom_cnn" / "seed0" / "metrics.json"
    change(file, lambda metrics: metrics["test"].pop("f1_macro"))
    with pytest.raises(CardError, match=r"'scores'.*'f1_macro'"):
        card(folder)


def test_without_figures_of_saliency_there_are_no_cards(folder):
    (folder / "saliency.csv").unlink()
    with pytest.raises(CardError, match=r"'saliency'.*Run the page Deeper: Six methods measured"):
        write_cards(folder, folder / "cards")


def test_saliency_of_a_model_is_measured_or_said_not_to_be(folder):
    assert "| Grad-CAM | 0.31 (0.10 to 0.90) | 0.31 (" in section(card(folder), "Saliency")
    saliency_of("mobilenet_v2").to_csv(folder / "saliency.csv", index=False)
    text = section(card(folder), "Saliency")
    assert "were not measured" in text
    assert "those of MobileNetV2" in text


def test_figures_of_an_earlier_training_are_refused(folder):
    assert write_cards(folder, folder / "cards")
    run = read_run(folder / "custom_cnn" / "seed1")  # the one that was measured
    model = load_model(run)
    model.layers[-1].bias.assign([1.0, 0.0, 0.0])
    model.save(run.folder / "model.keras")
    told = r"'saliency'.*another training.*Run the page Deeper: Six methods measured"
    with pytest.raises(CardError, match=told):
        write_cards(folder, folder / "new")
    assert not (folder / "new").exists()


def test_every_method_has_a_card_with_its_figures():
    figures = saliency_of()
    for value, method in enumerate(METHODS, start=31):
        page = saliency_card(method, figures)
        assert f"| 0.{value} (0.10 to 0.90) |" in section(page, "Measured here")
        assert "| metric | Custom CNN |" in page
        assert "{cite}`" in section(page, "Idea")
        assert len(re.findall(r"^## ", page, re.MULTILINE)) == 6
    with pytest.raises(CardError, match="'measured here'"):
        saliency_card("occlusion", figures[figures["method"] != "occlusion"])


def test_a_metric_that_one_model_lacks_is_said_not_to_be_measured():
    one, two = saliency_of(), saliency_of("mobilenet_v2")
    figures = pd.concat([one, two[two["metric"] == "share_inside"]])
    page = saliency_card("grad_cam", figures)
    row = next(line for line in page.splitlines() if line.startswith("| pointing game |"))
    assert row.endswith("| not measured |")


def test_all_pages_are_written_and_linked(folder, tmp_path):
    pages = write_cards(folder, tmp_path / "new" / "cards")
    names = [page.name for page in pages]
    assert names == ["index.md", "model_custom_cnn.md", *(f"saliency_{m}.md" for m in METHODS)]
    index = pages[0].read_text("utf-8")
    assert [name for name in names[1:] if f"({name})" not in index] == []
    assert "| [Custom CNN](model_custom_cnn.md) | 96 | 393,219 | 0.83 (" in index
    for page in pages:
        text = page.read_text("utf-8")
        assert "not a medical device" in text
        assert "diagnos" not in text
        assert "nan" not in re.findall(r"\w+", text)
    assert sorted(p.name for p in pages[0].parent.iterdir()) == sorted(names)


def test_a_run_on_another_split_is_refused(folder):
    file = folder / "custom_cnn" / "seed1" / "run.json"
    change(file, lambda info: info.update(split_hash="b" * 64))
    with pytest.raises(RunError, match="expected a run on the split"):
        write_cards(folder, folder / "cards")


HOSTILE = "<img src=x onerror=alert(1)> | `b` {cite}`c`"


def test_no_text_from_outside_is_html_or_breaks_a_table(folder):
    images = audit_of(films(), True).images
    images["site"] = images["site"].replace("C", HOSTILE)
    write_audit(Audit(images, *[pd.DataFrame({"kind": []})] * 3), folder)
    facts = ("preprocessing", "finished", "device", "precision", "profile")
    file = folder / "custom_cnn" / "seed0" / "run.json"
    change(file, lambda info: info.update(dict.fromkeys(facts[:-1], HOSTILE)))
    change(file, lambda info: info.update(versions={HOSTILE: HOSTILE}))
    figures = read_findings(folder).figures
    figures["metric"] = figures["metric"].replace("share_inside", HOSTILE)
    figures.to_csv(folder / "saliency.csv", index=False)
    pages = [page.read_text("utf-8") for page in write_cards(folder, folder / "cards")]
    assert sum(page.count(r"\<img") for page in pages) > 8
    for page in pages:
        shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(page)
        soup = BeautifulSoup(shown, "html.parser")
        assert soup.find("img") is None
        assert "{cite}`c`" not in page
        for table in soup.find_all("table"):
            columns = len(table.thead.find_all("th"))
            assert {len(row.find_all("td")) for row in table.tbody.find_all("tr")} == {columns}


def test_a_fact_that_is_no_number_is_refused(folder):
    file = folder / "custom_cnn" / "seed0" / "run.json"
    change(file, lambda info: info.update(parameters="<b>many</b>"))
    with pytest.raises(CardError, match=r"'model'.*'parameters' to be '<b>many</b>'"):
        card(folder)
    change(file, lambda info: info.update(parameters=3, weights="stolen"))
    with pytest.raises(CardError, match=r"one of None, members.*'licence'.*'stolen'"):
        card(folder)


def test_runs_that_are_none_of_the_book_are_left_out_of_it_in_one_line(folder, capsys):
    for name in ("vgg16+xception", "my_own"):
        a_run(folder / name / "seed0", films(), 0, model=name, split_hash="of another split")
    a_run(folder / "custom_cnn" / "seed7", films(), 7)
    found = {m: [run.info["seed"] for run in each] for m, each in models_of(folder).items()}
    assert found == {"custom_cnn": [0, 1]}
    others = "custom_cnn/seed7, my_own/seed0, vgg16+xception/seed0"
    line = f"{folder}: left out, since they are no runs of the book: {others}"
    assert capsys.readouterr().err == f"{line}\n"
    names = [page.name for page in write_cards(folder, folder / "cards")]
    assert [name for name in names if name.startswith("model_")] == ["model_custom_cnn.md"]
    notebook = {"metadata": {"papermill": {"duration": 1.0}}, "cells": []}
    notebook["metadata"]["papermill"]["parameters"] = {"profile": "smoke", "corpus": "~/<b>a</b>"}
    notebook["cells"] = [{"cell_type": "markdown", "metadata": {}, "source": ["# Title"]}]
    runs = [run for seeds in models_of(folder).values() for run in seeds]
    page = stage.status_page({"01": notebook}, runs)
    assert page.count("custom\\_cnn") == 2
    assert "xception" not in page
    assert r"on the corpus b\>" in page


def test_every_citation_is_in_the_bibliography():
    root = Path(__file__).resolve().parents[2]
    known = set(re.findall(r"^@\w+\{(\w+),", (root / "book/references.bib").read_text(), re.M))
    text = Path(cards.__file__).read_text("utf-8")
    assert set(re.findall(r"\{cite\}`(\w+)`", text)) <= known
