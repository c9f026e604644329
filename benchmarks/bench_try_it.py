"""Milliseconds from a film to its answer on the page "Try your own X-ray", in headless Chromium.

python benchmarks/bench_try_it.py [build/simulated/quick/html]

After loading, the median over repeats: decoding to grey, area resize, and the network with its
class maps and its check against the training films. Painting the page is not counted. The goal is
60 ms an image for the Custom CNN, all of this together.
"""

import base64
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

GOAL = 60.0  # milliseconds
REPEATS = 40
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
TIMED = """async ([data, repeats]) => {
  const tool = await import("/_static/js/try_it.js");
  const index = await (await fetch("/_static/models/index.json")).json();
  const film = new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))]);
  const median = (all) => all.sort((a, b) => a - b)[all.length >> 1];
  const found = {};
  for (const facts of index.models) {
    const network = await tool.Network.open(facts);
    const parts = { decode: [], resize: [], network: [], all: [] };
    for (let i = 0; i < repeats + 3; i++) {
      const t0 = performance.now();
      const picture = await tool.readPicture(film);
      const t1 = performance.now();
      const square = tool.fitSquare(picture, facts.image_size);
      const t2 = performance.now();
      await network.classify(square);
      const t3 = performance.now();
      if (i < 3) continue; // to warm up
      parts.decode.push(t1 - t0);
      parts.resize.push(t2 - t1);
      parts.network.push(t3 - t2);
      parts.all.push(t3 - t0);
    }
    found[facts.title] = Object.fromEntries(Object.entries(parts).map(([k, v]) => [k, median(v)]));
  }
  return found;
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that does not talk."""

    def log_message(self, *_: Any) -> None:  # noqa: ANN401
        pass


def measure(html: Path) -> dict[str, dict[str, float]]:
    """Median milliseconds by network and step, on the largest example film."""
    film = max((html / "_static/models").glob("*.png"), key=lambda path: path.stat().st_size)
    data = base64.b64encode(film.read_bytes()).decode("ascii")
    handler = functools.partial(Quiet, directory=str(html))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_playwright() as play,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/book/welcome.html")
        found: dict[str, dict[str, float]] = page.evaluate(TIMED, [data, REPEATS])
        server.shutdown()
    return found


def main() -> None:
    """Print a line for each network; exit status 1 if the Custom CNN misses the goal."""
    html = Path(sys.argv[1] if len(sys.argv) > 1 else "build/simulated/quick/html").resolve()
    found = measure(html)
    for title, parts in found.items():
        steps = ", ".join(f"{step} {ms:.1f}" for step, ms in parts.items())
        print(f"{title}: {steps} ms (median of {REPEATS})")
    if found["Custom CNN"]["all"] > GOAL:
        sys.exit(f"expected at most {GOAL:.0f} ms an image for the Custom CNN")


if __name__ == "__main__":
    main()
