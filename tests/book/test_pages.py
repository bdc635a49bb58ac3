"""The rendered pages: all there, every link inside the book leads somewhere, nothing left raw."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from book import build

PAGES = build.pages()
UNRENDERED = re.compile(r"\{[a-z][\w:-]*\}`|^:::|^```|\$\$|\?\?", re.MULTILINE)


@cache
def soup(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text("utf8"), "html.parser")


def broken_links(file: Path) -> list[str]:
    """Return the links and sources of a page that lead to no file or no anchor beside it."""
    broken = []
    for tag in soup(file).find_all(["a", "img", "link", "script"]):
        address = tag.get("href") or tag.get("src") or ""
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or address.startswith("#") and len(address) == 1:
            continue
        target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
        if not target.is_file():
            broken.append(address)
        elif parts.fragment and target.suffix == ".html":
            if not soup(target).find(id=unquote(parts.fragment)):
                broken.append(address)
    return broken


@pytest.fixture(params=PAGES)
def page(request, html) -> Path:
    return html / f"{request.param}.html"


def article(file: Path) -> BeautifulSoup:
    return soup(file).find("article")


def test_every_link_inside_the_book_leads_somewhere(page):
    assert broken_links(page) == []


def test_nothing_is_left_unrendered(page):
    text = BeautifulSoup(str(article(page)), "html.parser")
    for tag in text.find_all(["pre", "code", "script"]):
        tag.decompose()
    for formula in text.find_all(class_="math"):
        formula.decompose()
    assert UNRENDERED.findall(text.get_text()) == []


def test_every_picture_is_described_and_opaque(page):
    for image in article(page).find_all("img"):
        assert image.get("alt") and "_images" not in image["alt"], image["src"]
        file = (page.parent / image["src"]).resolve()
        if file.suffix == ".png":
            lowest, _ = Image.open(file).convert("RGBA").getchannel("A").getextrema()
            assert lowest == 255, f"{image['src']} is transparent: unreadable in dark mode"


@pytest.mark.parametrize("name", build.chapters())
def test_outputs_of_the_executed_chapter_are_on_its_page(name, html, run):
    hidden = {"remove-cell", "remove-output"}
    shown = [
        output["data"]["text/plain"]
        for cell in run(name).notebook.cells
        if cell.cell_type == "code" and not hidden & set(cell.metadata.tags)
        for output in cell.outputs
        if output.output_type == "execute_result" and set(output["data"]) == {"text/plain"}
    ]  # fmt: skip
    outputs = article(html / f"{name}.html").select(".cell_output pre")
    on_page = " ".join(" ".join(output.get_text() for output in outputs).split())
    assert [text for text in shown if " ".join(text.split()) not in on_page] == []


@pytest.mark.parametrize("name", build.chapters())
def test_a_chapter_can_be_downloaded_as_a_notebook(name, html):
    page = html / f"{name}.html"
    links = [link["href"] for link in soup(page).find_all("a", href=True)]
    assert any(link.endswith(f"_sources/{name}.ipynb") for link in links)
    assert any(link.endswith(f"_sources/{name}.md") for link in links)


def test_the_table_of_executed_chapters_needs_no_font_of_emoji(html):
    signs = [row.find_all("td")[-1].get_text() for row in article(html / "book/status.html")
             .select("tr:has(a.doc)")]  # fmt: skip
    assert signs == ["✓"] * len(build.chapters())


def test_broken_links_are_seen(tmp_path):
    (tmp_path / "b.html").write_text("<h1 id='there'>b</h1>")
    file = tmp_path / "a.html"
    file.write_text(
        "<a href='b.html#there'>1</a><a href='b.html#gone'>2</a><a href='c.html'>3</a>"
        "<a href='#'>4</a><a href='https://example.org/gone'>5</a><img src='gone.png'>"
    )
    assert broken_links(file) == ["b.html#gone", "c.html", "gone.png"]
