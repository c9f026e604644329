"""The built pages and a browser for them, with every other host out of reach."""

import functools
import http.server
import threading
import time
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from smoke import chromium, smoke_build
from tiny_pages import page_of

FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
WIDE = {"width": 1300, "height": 900}
LOCAL = ("file:", "data:", "blob:", "http://127.0.0.1:")


@pytest.fixture(scope="session")
def html() -> Path:
    return smoke_build() / "html"


@pytest.fixture(scope="session")
def browser():
    path = chromium()
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=FLAGS.split())


# What is typed or chosen has a label, a button its own text.
NAME = "e => (e.labels && e.tagName !== 'BUTTON' ? e.labels[0] : e).textContent.trim()"


class Visit:
    """An open page with all that it asked for and complained about."""

    def __init__(self, browser, viewport, scheme, late):
        # Without motion nothing is caught half way through a fade.
        look = {"color_scheme": scheme, "reduced_motion": "reduce"}
        self.context = browser.new_context(viewport=viewport, **look)
        self.context.set_default_timeout(60_000)  # the machine may be busy
        self.page = self.context.new_page()
        self.foreign: list[str] = []
        self.complaints: list[str] = []
        self.page.route(lambda url: not url.startswith(LOCAL), self._refuse)
        for part, seconds in late.items():
            self.page.route(f"**/*{part}*", functools.partial(self._delay, seconds))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.on("console", self._listen)

    def focused(self, control) -> str:
        """The name of a control, which shows that it has the focus."""
        control.focus()
        self.page.keyboard.press("Shift")  # the browser now takes the reader for a typist
        assert control.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        return control.evaluate(NAME)

    def _refuse(self, route):
        self.foreign.append(route.request.url)
        route.abort()

    def _delay(self, seconds, route):
        time.sleep(seconds)
        route.continue_()

    def _listen(self, message):
        if message.type == "error":
            self.complaints.append(message.text)


@pytest.fixture
def visit(browser):
    opened = []

    def open_page(url, viewport=WIDE, scheme="light", late=None) -> Visit:
        """Open the page; `late` says how many seconds late a file arrives, by its name."""
        new = Visit(browser, viewport, scheme, late or {})
        opened.append(new)
        new.page.goto(url)
        new.page.wait_for_timeout(700)  # quizzes look for MathJax after half a second
        return new

    yield open_page
    for each in opened:
        each.context.close()


@pytest.fixture
def tiny(visit, tmp_path):
    """Opens a page that holds these widgets as the book does."""

    def opened(*widgets, change=lambda models: None, **options) -> Visit:
        page = tmp_path / "page.html"
        page.write_text(page_of(widgets, change), "utf-8")
        seen = visit(page.as_uri(), **options)
        ready = "document.querySelector('main > div')?.textContent"
        seen.page.wait_for_function(ready, timeout=60_000)
        return seen

    return opened


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
