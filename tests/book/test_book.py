"""The built pages, in a real browser with every other host out of reach."""

import functools
import http.server
import json
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import axe_core_python
import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright
from smoke import CHAPTERS, ROOT, chromium, smoke_build

FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
PAGES = ["book/welcome", *(f"book/{path.stem}" for path in (ROOT / "book").glob("*.md"))]
PAGES = [*sorted({*PAGES, "book/status"}), *(f"notebooks/{chapter}" for chapter in CHAPTERS)]
WIDE, NARROW = {"width": 1300, "height": 900}, {"width": 360, "height": 740}
LOCAL = ("file:", "data:", "blob:", "http://127.0.0.1:")

each_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="session")
def html() -> Path:
    return smoke_build() / "html"


@pytest.fixture(scope="session")
def browser():
    path = chromium()
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=FLAGS.split())


class Visit:
    """An open page with all that it asked for and complained about."""

    def __init__(self, browser, viewport, scheme):
        # Without motion nothing is caught half way through a fade.
        look = {"color_scheme": scheme, "reduced_motion": "reduce"}
        self.context = browser.new_context(viewport=viewport, **look)
        self.page = self.context.new_page()
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.page.route(lambda url: not url.startswith(LOCAL), self._refuse)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.on("console", self._listen)

    def _refuse(self, route):
        self.foreign.append(route.request.url)
        route.abort()

    def _listen(self, message):
        if message.type == "error":
            self.complaints.append(message.text)


@pytest.fixture
def visit(browser):
    opened = []

    def open_page(url, viewport=WIDE, scheme="light") -> Visit:
        new = Visit(browser, viewport, scheme)
        opened.append(new)
        new.page.goto(url)
        new.page.wait_for_timeout(700)  # quizzes look for MathJax after half a second
        return new

    yield open_page
    for each in opened:
        each.context.close()


@functools.cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@pytest.fixture(scope="session")
def server(html):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@each_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_asks_no_other_host_and_is_accessible(html, visit, page, scheme):
    seen = visit((html / f"{page}.html").as_uri(), scheme=scheme)
    for summary in seen.page.locator("button.toggle-button").all():
        summary.click()
    seen.page.add_script_tag(content=AXE)
    options = {"runOnly": TAGS, "resultTypes": ["violations"]}
    found = seen.page.evaluate("options => axe.run(document, options)", options)["violations"]
    grave = [
        (each["id"], [node["html"][:160] for node in each["nodes"][:4]])
        for each in found
        if each["impact"] in {"serious", "critical"}
    ]
    assert seen.foreign == []
    assert seen.complaints == []
    assert grave == [], json.dumps(grave, indent=1)


@each_page
def test_page_fits_a_narrow_screen(html, visit, page):
    seen = visit((html / f"{page}.html").as_uri(), NARROW)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    wide = """[...document.querySelectorAll('.bd-article img')].filter(
        image => image.getBoundingClientRect().width > innerWidth).length"""
    assert seen.page.evaluate(wide) == 0


@pytest.mark.parametrize("page", [PAGES[0], PAGES[-1]])
def test_page_is_the_same_from_a_server(server, visit, page):
    seen = visit(f"{server}/{page}.html")
    assert seen.foreign == []
    assert [text for text in seen.complaints if "favicon" not in text] == []


@each_page
def test_images_have_texts_of_their_own(html, page):
    images = soup(html / f"{page}.html").select(".bd-article img")
    texts = [image.get("alt", "").strip() for image in images]
    assert [text for text in texts if len(text.split()) < 3 or Path(text).suffix] == []
    assert [text for text, times in Counter(texts).items() if times > 1] == []


@each_page
def test_page_has_one_title(html, page):
    assert len(soup(html / f"{page}.html").select(".bd-article h1")) == 1


@each_page
def test_links_inside_the_book_lead_somewhere(html, page):
    here = html / f"{page}.html"
    broken = []
    for link in soup(here).select("a[href]"):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc:
            continue
        target = (here.parent / unquote(parts.path)).resolve() if parts.path else here
        anchor = unquote(parts.fragment) if target.suffix == ".html" else ""
        if not target.exists() or (anchor and not soup(target).find(id=anchor)):
            broken.append(link["href"])
    assert broken == []


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_opens_in_colab(html, chapter):
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    base = url.replace("https://github.com", "https://colab.research.google.com/github")
    links = [a["href"] for a in soup(html / f"notebooks/{chapter}.html").select("a[href*=colab]")]
    assert f"{base}/blob/main/notebooks/{chapter}.ipynb" in links


def test_search_finds_a_word_offline(html, visit):
    seen = visit(f"{(html / 'search.html').as_uri()}?q=trabecular")
    seen.page.wait_for_selector("#search-results li a", timeout=5000)
    assert seen.foreign == []


def test_solutions_are_folded_until_asked_for(html, visit):
    seen = visit((html / f"notebooks/{CHAPTERS[0]}.html").as_uri())
    solution = seen.page.locator(".solution.dropdown").first
    before = solution.bounding_box()["height"]
    solution.locator(".toggle-button").click()
    seen.page.wait_for_timeout(300)
    assert solution.bounding_box()["height"] > before


def test_quiz_answers_when_clicked(html, visit):
    seen = visit((html / f"notebooks/{CHAPTERS[0]}.html").as_uri())
    quiz = seen.page.locator(".Quiz").first
    quiz.locator(".MCButton").first.click()
    assert quiz.locator(".Feedback").first.inner_text().strip()


def test_theme_button_switches_and_stays(html, visit):
    seen = visit((html / "book/welcome.html").as_uri())
    themes = set()
    for _ in range(3):
        seen.page.locator(".theme-switch-button:visible").first.click()
        themes.add(seen.page.evaluate("document.documentElement.dataset.theme"))
    assert themes == {"light", "dark"}
