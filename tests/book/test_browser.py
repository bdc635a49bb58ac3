"""The rendered pages in a real browser, with the network off."""

import io
import os
import shutil

import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from book import build

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        message = "no Chromium found: install chromium with your distribution's packages"
        if os.environ.get("LANMSFF_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, html):
    """A fresh page; at its end, nothing may have failed and nothing may have left the folder."""
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_offline(True)
    page = context.new_page()
    troubles = []
    bad = ("error", "warning")
    page.on("console", lambda line: troubles.append(line.text) if line.type in bad else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.append(f"failed: {request.url}"))
    inside = (html.as_uri(), "data:", "blob:")
    page.on(
        "request",
        lambda r: None if r.url.startswith(inside) else troubles.append(f"outside: {r.url}"),
    )
    yield page
    context.close()
    assert troubles == []


def opened(page, html, name):
    page.goto((html / f"{name}.html").as_uri(), wait_until="load")
    page.evaluate("window.MathJax?.startup?.promise")  # formulas move what is below them


@pytest.mark.parametrize("name", build.pages())
def test_page_opens_with_sidebar_and_formulas(name, page, html):
    opened(page, html, name)
    assert page.locator("article h1").is_visible()
    links = page.locator(".bd-sidebar-primary nav a")
    assert links.count() == len(build.pages())
    formulas = page.locator("article .math").count()
    if formulas:
        typeset = "n => document.querySelectorAll('article .math mjx-container').length >= n"
        page.wait_for_function(typeset, arg=formulas)
        assert page.locator("article mjx-merror").count() == 0
        cut_off = "all => all.filter(m => m.scrollWidth > m.clientWidth).map(m => m.parentNode.id)"
        assert page.locator("article div.math mjx-container").evaluate_all(cut_off) == []


def test_no_page_is_wider_than_a_phone(page, html):
    page.set_viewport_size({"width": 390, "height": 800})
    for name in build.pages():
        opened(page, html, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_no_table_is_wider_than_the_text_beside_it(page, html):
    wide = """all => all.filter(table => table.scrollWidth > table.parentElement.clientWidth + 1)
                        .map(table => table.innerText.slice(0, 40))"""
    for name in build.pages():
        opened(page, html, name)
        assert page.locator("article table").evaluate_all(wide) == [], name


@pytest.mark.parametrize("name", build.chapters())
def test_figures_stay_readable_in_dark_mode(name, page, html):
    opened(page, html, name)
    for _ in range(3):  # auto, light, dark
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            break
        page.locator(".theme-switch-button:visible").first.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    ground = Image.open(io.BytesIO(page.screenshot())).convert("L")
    assert ground.getpixel((280, 300)) < 80  # the margin of the text
    for figure in page.locator("article .cell_output img:visible").all():
        figure.evaluate("figure => figure.scrollIntoView({block: 'end', behavior: 'instant'})")
        box = figure.bounding_box()  # its lower end is on the screen, however tall it is
        corner = (round(box["x"]) + 4, round(box["y"] + box["height"]) - 4)
        seen = Image.open(io.BytesIO(page.screenshot())).convert("L").getpixel(corner)
        assert seen > 250, f"{figure.get_attribute('src')} has no white face"


def test_solutions_are_hidden_until_asked_for(page, html):
    for name in build.chapters():
        opened(page, html, name)
        for solution in page.locator("div.solution.dropdown").all():
            content = solution.locator("section, .section").first
            assert not content.is_visible()
            solution.locator("button.toggle-button").click()
            assert content.is_visible()


def test_search_finds_a_word_of_the_book(page, html):
    page.goto((html / "search.html").as_uri() + "?q=expression")
    page.locator("ul.search li").first.wait_for(timeout=10_000)


def test_code_fits_beside_the_contents_of_the_book(page, html):
    page.set_viewport_size({"width": 1440, "height": 900})
    scrolling = "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    for name in build.pages():
        opened(page, html, name)
        assert page.locator("div.cell_input pre").evaluate_all(scrolling) == [], name


def test_numbers_from_a_cell_look_like_the_text_around_them(page, html):
    opened(page, html, "book/training")
    weights = page.locator("article p > .pasted-text").evaluate_all(
        "all => all.map(e => [getComputedStyle(e).fontWeight,"
        " getComputedStyle(e.parentNode).fontWeight])"
    )
    assert weights and all(own == around for own, around in weights)
