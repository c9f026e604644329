"""How long a widget takes to redraw after a slider move: `python benchmarks/bench_widgets.py`.

Each widget stands alone on a page in headless Chromium, with made-up data of the size of profile
quick, as it opens and with everything shown that it can show. Every slider is moved 100 times,
after 10 moves that are not counted; timed are the script of the move and the layout that follows,
not the painting by the compositor. Below 16 ms a slider keeps up with a screen of 60 pictures a
second. On a busy machine the 95th percentile says more about the machine.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
from ipywidgets.embed import dependency_state, embed_data
from playwright.sync_api import Page, sync_playwright

from osteo_utils.registry import ARCHITECTURES, CLASS_NAMES
from osteo_utils.runs import PROBABILITY_COLUMNS, Run
from osteo_utils.widgets import (
    CamExplorer,
    CeilingExplorer,
    DecisionExplorer,
    PhantomExplorer,
    Stack,
)

LIMIT = 16.0  # milliseconds
FILMS = 12  # of the CamExplorer
SIDE = 128
ANSWERED = 249  # films of validation, and of test

# As a page of the book has it: the saved state, a view, and the book's own loader.
LOADER = Path(__file__).resolve().parents[1] / "book/assets/js/widgets.js"
PAGE = """<!doctype html><meta charset="utf-8"><title>bench</title><body>
<script type="application/vnd.jupyter.widget-state+json">{state}</script>
<script type="application/vnd.jupyter.widget-view+json">{view}</script>
<script src="{loader}"></script>"""

MOVES = """async (control) => {
  const [low, high, step] = [control.min, control.max, control.step].map(Number);
  const places = Math.round((high - low) / step) + 1;
  const times = [];
  for (let k = 0; k < 110; k++) {
    await new Promise(requestAnimationFrame);
    control.value = String(low + ((k * 7 + 3) % places) * step);
    const start = performance.now();
    control.dispatchEvent(new Event("input"));
    document.body.offsetHeight; // layout
    times.push(performance.now() - start);
  }
  return times.slice(10);
}"""


def page_of(widget: anywidget.AnyWidget) -> str:
    """A page with the widget, as the book has it."""
    own = dependency_state([widget], drop_defaults=False)
    data = embed_data([widget], state=own)
    state, (view,) = data["manager_state"], data["view_specs"]
    texts = {"state": state, "view": view}
    safe = {name: json.dumps(text).replace("</", "<\\/") for name, text in texts.items()}
    return PAGE.format(loader=LOADER.as_uri(), **safe)


def decisions(rng: np.random.Generator) -> DecisionExplorer:
    return DecisionExplorer({name: made_up_run(rng) for name in ARCHITECTURES})


def made_up_run(rng: np.random.Generator) -> Run:
    n = 2 * ANSWERED
    p = rng.dirichlet([1, 1, 1], n)
    table = pd.DataFrame(
        {"path": np.arange(n), "group": np.arange(n), "label": np.arange(n) % 3}
        | {"part": ["validation"] * ANSWERED + ["test"] * ANSWERED}
    ).assign(**dict(zip(PROBABILITY_COLUMNS, p.T, strict=True)))
    info = {"split_hash": "", "class_names": list(CLASS_NAMES), "seed": 0}
    return Run(Path("made-up"), info, table, {}, pd.DataFrame())


def heatmaps(rng: np.random.Generator) -> CamExplorer:
    """The second map is signed and of pixels, the finest there is."""
    films = rng.integers(0, 256, (FILMS, SIDE, SIDE), dtype=np.uint8)
    coarse = rng.random((3, FILMS, 6, 6), dtype=np.float32)
    fine = rng.random((3, FILMS, 24, 24), dtype=np.float32) - 0.5
    stacks = [Stack("A", "last", "Grad-CAM", coarse), Stack("B", "pixels", "Occlusion", fine)]
    p = {name: rng.dirichlet([1, 1, 1], FILMS) for name in "AB"}
    masks = {"bone": films > 127}
    return CamExplorer(films, [0] * FILMS, stacks, p, masks=masks)


# A widget, and what shows all that it can show.
CASES: tuple[tuple[Callable[[np.random.Generator], anywidget.AnyWidget], dict[str, Any]], ...] = (
    (decisions, {"rule": "thresholds"}),
    (heatmaps, {"beside": 1, "outline": 0}),
    (lambda _: PhantomExplorer(), {"mask": "trabecular", "compare": True}),
    (lambda _: CeilingExplorer(), {"error": 2.0}),
)


def times(page: Page, file: Path) -> dict[str, list[float]]:
    """Milliseconds of every move, by the label of the slider."""
    page.goto(file.as_uri())
    page.wait_for_selector("input[type=range]", timeout=30_000)
    sliders = page.locator("input[type=range]").all()
    labels = [slider.evaluate("e => e.labels[0].textContent") for slider in sliders]
    found = zip(labels, sliders, strict=True)
    return {label: slider.evaluate(MOVES) for label, slider in found if slider.is_visible()}


def main() -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        sys.exit("bench_widgets: expected Chromium on this machine, found none")
    rng = np.random.default_rng(0)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    print(f"  {'slider':42}{'median ms':>10}{'95 % ms':>9}  below {LIMIT:.0f} ms")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        for make, everything in CASES:
            widget = make(rng)
            for title, state in (("as it opens", {}), ("all shown", everything)):
                widget.set_state(state)
                name = type(widget).__name__
                file = Path(folder) / f"{name}.html"
                file.write_text(page_of(widget), "utf-8")
                print(f"{name}, {title}")
                report(times(page, file))


def report(found: dict[str, list[float]]) -> None:
    for label, measured in found.items():
        median, late = np.percentile(measured, [50, 95])
        verdict = "yes" if late < LIMIT else "median only" if median < LIMIT else "NO"
        print(f"  {label[:40]:42}{median:10.1f}{late:9.1f}  {verdict}")


if __name__ == "__main__":
    main()
