"""Print the built pages through Chromium into one PDF with an outline.

    python book/pdf.py PROFILE CORPUS

A page of the book is a part of the PDF: chapters, their deeper pages, glossary and references. The
reference of the package and the cards stay on the web. Links lead to the published pages.
"""

import html
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import yaml
from playwright.sync_api import Browser, Page, sync_playwright
from pypdf import PdfReader, PdfWriter

from build import build_folder, corpus_argument
from contents import ROOT

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_ENTRY: Final = re.compile(r'<a class="[^"]*internal[^"]*" href="([^"#]+)">(.*?)</a>', re.DOTALL)
_ON_THE_WEB: Final = ("api/", "cards/", "guide/")
FOOT: Final = (
    '<div style="font-size: 8px; width: 100%; margin: 0 18mm; display: flex; '
    'justify-content: space-between"><span>{title}</span><span class="pageNumber"></span></div>'
)
PUBLISHED: Final = """address => {
  for (const link of document.querySelectorAll("a[href]")) {
    const href = link.getAttribute("href");
    if (!/^(#|https?:|mailto:)/.test(href)) link.href = new URL(href, address).href;
  }
}"""


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and title of the pages to print, in the order of the side bar.

    Args:
        folder: Of the built pages.

    Yields:
        As from the folder.
    """
    front = (folder / "book/welcome.html").read_text(encoding="utf-8")
    yield "book/welcome.html", "Welcome"
    bar = front[front.index('<nav class="bd-links') :]
    for href, words in _ENTRY.findall(bar[: bar.index("</nav>")]):
        path = urljoin("book/welcome.html", href)
        if path != "book/welcome.html" and not any(each in path for each in _ON_THE_WEB):
            yield path, html.unescape(re.sub(r"<[^>]+>", "", words)).strip()


def paper(browser: Browser) -> Page:
    """A page that is printed on paper, with every other host out of reach."""
    page = browser.new_page()
    page.set_default_timeout(120_000)  # the machine may be busy
    page.route(re.compile("^https?:"), lambda route: route.abort())
    page.emulate_media(media="print", color_scheme="light")
    return page


def print_page(page: Page, file: Path, address: str, title: str, out: Path) -> None:
    """Print one page."""
    page.goto(file.as_uri())
    page.wait_for_timeout(700)  # quizzes and formulas draw themselves
    page.evaluate(PUBLISHED, address)
    foot = FOOT.format(title=html.escape(title))
    page.pdf(
        path=out,
        format="A4",
        margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=foot,
        print_background=True,
    )


def main() -> None:
    """Print all pages, then bind them."""
    profile, corpus = sys.argv[1:3]
    built = build_folder(profile, corpus_argument(corpus))
    folder, out = built / "html", built / "book.pdf"
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"No browser to print with: looked for {', '.join(BROWSERS)}. Install Chromium.")
    site = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"]
    book = PdfWriter()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as made:
        page = paper(playwright.chromium.launch(executable_path=found, args=["--no-sandbox"]))
        for number, (path, title) in enumerate(pages(folder)):
            part = Path(made) / f"{number}.pdf"
            print_page(page, folder / path, urljoin(site, path), title, part)
            book.append(PdfReader(part), outline_item=title, import_outline=False)
    book.write(out)
    print(f"{out}: {len(book.pages)} pages")


if __name__ == "__main__":
    main()
