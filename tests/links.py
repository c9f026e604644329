"""Ask every address that the pages name whether it is still there.

python tests/links.py

A page that is gone, or a host that nobody knows, is a failure. A host that answers something else,
such as a publisher that wants to see a browser, is named and counts as there. A DOI is asked of the
registry of DOIs, so that no publisher stands between.
"""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("*.md", "book/**/*.md", "data/**/*.md", "notebooks/*.ipynb", "book/references.bib")
PLACES += ("osteo_utils/chapters/card_texts/**/*.md", ".github/**/*.md")
ADDRESS = re.compile(r"https?://[^\s<>()\[\]{}\"'`\\|]+")
DOI = re.compile(r"\bdoi\s*=\s*\{(.+?)\}")
REGISTRY = "https://doi.org/api/handles/"
GONE = (404, 410)


def links(root: Path = ROOT) -> set[str]:
    """Every address on the pages; a DOI as a question to the registry."""
    sys.path.append(str(ROOT / "book"))
    from address import address_in, pages_of

    own = (address_in(root), pages_of(address_in(root)), "//localhost")
    found = set()
    for text in (file.read_text("utf-8") for place in PLACES for file in root.glob(place)):
        found |= {each.rstrip(".,;:*") for each in ADDRESS.findall(text)}
        found |= {f"https://doi.org/{doi}" for doi in DOI.findall(text)}
    found = {each.partition("#")[0] for each in found if not any(mine in each for mine in own)}
    return {re.sub(r"^https?://(?:dx\.)?doi\.org/", REGISTRY, each) for each in found}


def problem(link: str) -> tuple[bool, str]:
    """Whether a link is gone, and what is to be said of it; "" if it is there."""
    try:
        request = Request(link, headers={"User-Agent": "Mozilla/5.0 (link check of a course)"})
        with urlopen(request, timeout=30) as answer:
            known = not link.startswith(REGISTRY) or json.load(answer)["responseCode"] == 1
        return not known, "" if known else "no such DOI"
    except HTTPError as error:
        return error.code in GONE, f"answers {error.code}"
    except (URLError, OSError, ValueError) as error:
        return "Name or service not known" in str(error), str(error)


def main() -> None:
    """Ask all, eight at a time; exit 1 if one is gone."""
    asked = sorted(links())
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(asked, pool.map(problem, asked), strict=True))
    for link, (gone, said) in answers.items():
        if said:
            print("GONE" if gone else "unsure", link, said)
    gone = sum(gone for gone, _ in answers.values())
    print(f"{len(asked)} addresses, {gone} gone")
    sys.exit(1 if gone else 0)


if __name__ == "__main__":
    main()
