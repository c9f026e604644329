"""The built pages, in a real browser with every other host out of reach."""

import functools
import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import axe_core_python
import pytest
import yaml
from bs4 import BeautifulSoup
from smoke import CHAPTERS, ROOT

from contents import chapters

AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
PAGES = ["book/welcome", "book/api/index", "book/api/scoring"]
PAGES += [f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")]
REFERENCE = [f"book/api/{path.stem}" for path in sorted((ROOT / "book/api").glob("*.md"))]
CARDS = ["index", "model_custom_cnn", "saliency_grad_cam"]  # one of each kind
PAGES += [f"book/cards/{card}" for card in CARDS]
PAGES += [f"book/guide/part_{number}" for number in range(len({c.part for c in chapters()}))]
PAGES = [*sorted({*PAGES, "book/status"}), *(f"notebooks/{chapter}" for chapter in CHAPTERS)]
NARROW = {"width": 360, "height": 740}

each_chapter = pytest.mark.parametrize("chapter", chapters(), ids=CHAPTERS)
each_page = pytest.mark.parametrize("page", PAGES)


@functools.cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


@each_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_asks_no_other_host_and_is_accessible(html, visit, page, scheme):
    seen = visit((html / f"{page}.html").as_uri(), scheme=scheme)
    for summary in seen.page.locator("button.toggle-button").all():
        summary.click()
    seen.page.add_script_tag(content=AXE)
    rules = TAGS if scheme == "light" else ["color-contrast"]  # nothing but colours differs
    options = {"runOnly": rules, "resultTypes": ["violations"]}
    found = seen.page.evaluate("options => axe.run(document, options)", options)["violations"]
    grave = [
        (each["id"], [node["html"][:160] for node in each["nodes"][:4]])
        for each in found
        if each["impact"] in {"serious", "critical"}
    ]
    assert seen.foreign == []
    assert seen.complaints == []
    assert grave == [], json.dumps(grave, indent=1)


@pytest.mark.parametrize("page", [*PAGES, *(p for p in REFERENCE if p not in PAGES)])
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


@each_chapter
def test_chapter_opens_the_copy_for_students_in_colab(html, chapter):
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    base = url.replace("https://github.com", "https://colab.research.google.com/github")
    page = soup(html / f"notebooks/{chapter.name}.html")
    links = [link["href"] for link in page.select("a[href*=colab]")]
    assert set(links) == {f"{base}/blob/gh-pages/editions/student/{chapter.file}"}
    assert len(links) >= 2  # the rocket, and the box at the head
    assert (html / f"editions/student/{chapter.file}").exists()


@each_chapter
def test_chapter_offers_its_copies_and_slides(html, chapter):
    page = html / f"notebooks/{chapter.name}.html"
    links = {a["href"] for a in soup(page).select(".article-header-buttons a[href]")}
    copies = {
        f"../editions/{each}/{chapter.file}" for each in ("student", "solutions", "instructor")
    }
    assert copies <= links
    assert f"../slides/{Path(chapter.file).stem}.html" in links
    assert all((page.parent / link).exists() for link in links if link.startswith("../"))


@each_chapter
def test_chapter_has_its_number_in_the_side_bar(html, chapter):
    page = soup(html / "book/welcome.html")
    [link] = page.select(f'nav.bd-links a[href$="notebooks/{chapter.name}.html"]')
    number = "" if chapter.deeper else chapter.number.lstrip("0")
    assert link.get_text(strip=True).startswith(f"{number}. " if number else "")
    assert chapter.deeper == link.get_text(strip=True).startswith("Deeper: ")


@pytest.mark.parametrize(
    ("route", "low", "high"), [("Two", 70, 130), ("Six", 5, 7), ("Twenty", 17, 23)]
)
def test_a_route_takes_about_as_long_as_it_says(html, route, low, high):
    quotes = soup(html / "book/welcome.html").select(".bd-article blockquote")
    [text] = [
        q.get_text(" ") for q in quotes if q.get_text(strip=True).startswith(f"{route} hours")
    ]
    [number] = re.findall(r"take (?:about )?(\d+) ", text)
    assert low <= int(number) <= high


@each_chapter
def test_no_slide_is_too_large_and_none_asks_another_host(html, visit, chapter):
    seen = visit((html / f"slides/{Path(chapter.file).stem}.html").as_uri())
    large = """() => [...Array(deck.getTotalSlides()).keys()].filter(number => {
        deck.slide(number);
        const slide = deck.getCurrentSlide();
        return slide.scrollHeight > 752 || slide.scrollWidth > 1202;
    })"""
    assert seen.page.evaluate(large) == []
    assert seen.foreign == []
    assert seen.complaints == []


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
