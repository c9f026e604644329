"""Count how many knees of the Mendeley set the locator finds, and lay what it found over the films.

Usage, from the root of the repository: python data/reference/mendeley_locator.py FOLDER [PAGES]

Writes mendeley_locator.csv (counts, the matched filter beside the network that lost) and
mendeley_located.csv (what the filter finds on every film). With PAGES, a folder outside the
repository, also pages of films with the cut drawn in, for a person to look through; what a person
saw there is in mendeley_misses.csv, written by hand.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import mendeley_network as network
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy.stats import binomtest

from osteo_utils.chapters.locator import Knee, hits, locate_knees
from osteo_utils.data.corpus import list_corpus
from osteo_utils.data.images import read_image

HERE = Path(__file__).parent
LONG = 512  # pixels of the longer side, in which mendeley_knees.csv is written
NETWORK_LEAST = 0.1  # best of 0.1, 0.2 .. 0.5 on the yardstick itself: generous to the network


def yardstick() -> dict[str, list[Knee]]:
    """The knees that a person marked, by file name."""
    rows = pd.read_csv(HERE / "mendeley_knees.csv")
    columns = ["x", "y", "width"]
    return {str(f): [Knee(*k) for k in t[columns].to_numpy()] for f, t in rows.groupby("file")}


def located(paths: dict[str, Path], locate: Callable) -> dict[str, list[Knee]]:
    """What a locator finds on each film, scaled to LONG pixels on the longer side."""
    found = {}
    for name, path in paths.items():
        image = read_image(path)
        scale = LONG / max(image.shape)
        knees = locate(image)
        found[name] = [Knee(k.x * scale, k.y * scale, k.width * scale, k.score) for k in knees]
    return found


def count(method: str, found: dict[str, list[Knee]]) -> list[tuple]:
    """Rows of a method on the yardstick: knees, films without any error, boxes without a knee."""
    truth = yardstick()
    right = {name: hits(found[name], knees) for name, knees in truth.items()}
    knees, boxes = sum(map(len, truth.values())), sum(len(found[name]) for name in truth)
    whole = sum(right[n] == len(truth[n]) == len(found[n]) for n in truth)
    return [
        (method, "knees of the sample found", sum(right.values()), knees),
        (method, "films of the sample without error", whole, len(truth)),
        (method, "boxes on the sample without a knee", boxes - sum(right.values()), boxes),
    ]


def by_eye(listing: pd.DataFrame) -> list[tuple]:
    """Rows counted from the pages: all files, and distinct films that are not in the sample."""
    missed = set(pd.read_csv(HERE / "mendeley_misses.csv")["file"])
    names = listing["path"].map(lambda path: Path(path).name)
    seen = listing.loc[names.isin(list(yardstick())), "sha256"]
    rest = ~listing["sha256"].isin(seen) & ~listing["sha256"].duplicated()
    rows = []
    for what, part in (("all files", names), ("distinct films outside the sample", names[rest])):
        rows.append(("matched filter", f"{what}, by eye", sum(~part.isin(missed)), len(part)))
    return rows


def pages(folder: Path, paths: dict[str, Path], found: dict[str, list[Knee]]) -> None:
    """Twenty-four films a page, every cut as a square and every joint as a bar."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(paths)
    for start in range(0, len(names), 24):
        page = Image.new("RGB", (6 * 340, 4 * 355))
        for i, name in enumerate(names[start : start + 24]):
            film = Image.fromarray(read_image(paths[name])).convert("RGB")
            draw, scale = ImageDraw.Draw(film), max(film.size) / LONG
            for x, y, w, _ in found[name]:
                box = np.array([x - w, y - w, x + w, y + w]) * scale
                bar = np.array([x - w / 2, y - 2, x + w / 2, y + 2]) * scale
                draw.rectangle(tuple(box), outline="lime", width=2)
                draw.rectangle(tuple(bar), outline="red")
            film.thumbnail((336, 336))
            at = (i % 6 * 340, i // 6 * 355)
            page.paste(film, (at[0], at[1] + 15))
            ImageDraw.Draw(page).text(at, name, fill="white")
        page.save(folder / f"page_{start // 24 + 1}.png")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    listing = list_corpus(root)
    paths = {Path(path).name: root / path for path in listing["path"]}
    found = located(paths, locate_knees)
    rows = [(name, *knee) for name, knees in found.items() for knee in knees]
    table = pd.DataFrame(rows, columns=["file", "x", "y", "width", "score"])
    table.round({"x": 1, "y": 1, "width": 1, "score": 3}).to_csv(
        HERE / "mendeley_located.csv", index=False
    )
    if len(sys.argv) > 2:
        pages(Path(sys.argv[2]), paths, found)
    model = network.train()
    sample = {name: paths[name] for name in yardstick()}
    rival = located(sample, lambda image: network.locate(model, image, NETWORK_LEAST))
    rows = [*count("matched filter", found), *count("network", rival), *by_eye(listing)]
    result = pd.DataFrame(rows, columns=["method", "counted", "count", "of"])
    wilson = [binomtest(k, n).proportion_ci(method="wilson") for _, _, k, n in rows]
    result["low"], result["high"] = zip(*((w.low, w.high) for w in wilson), strict=True)
    result.round(4).to_csv(HERE / "mendeley_locator.csv", index=False)
    print(result.to_string(index=False))
