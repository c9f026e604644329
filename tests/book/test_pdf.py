"""The pages print: numbered titles, no side bar, links to the published pages."""

import sys
import unicodedata

import pytest
from smoke import ROOT

sys.path.append(str(ROOT / "book"))
pypdf = pytest.importorskip("pypdf")  # make test installs it
import pdf
from contents import chapters


def test_every_chapter_is_printed_in_the_order_of_the_contents(html):
    printed = [path for path, _ in pdf.pages(html)]
    wanted = [f"notebooks/{chapter.name}.html" for chapter in chapters()]
    assert [path for path in printed if path.startswith("notebooks/")] == wanted
    assert {"book/welcome.html", "book/glossary.html", "book/references.html"} <= set(printed)


def test_a_page_prints_with_its_number_and_its_links(html, browser, tmp_path):
    chapter = next(each for each in chapters() if each.number == "03")
    title = dict(pdf.pages(html))[f"notebooks/{chapter.name}.html"]
    page, out = pdf.paper(browser), tmp_path / "page.pdf"
    file = html / f"notebooks/{chapter.name}.html"
    pdf.print_page(page, file, f"https://site.org/{file.name}", title, out)
    page.close()
    sheets = pypdf.PdfReader(out).pages
    first = unicodedata.normalize("NFKC", " ".join(sheets[0].extract_text().split()))
    assert title.startswith("3. ")
    assert title in first
    assert "Search" not in first
    links = [
        a.get_object().get("/A", {}).get("/URI", "") for s in sheets for a in s.get("/Annots", [])
    ]
    assert links
    assert not [link for link in links if link.startswith("file:")]
