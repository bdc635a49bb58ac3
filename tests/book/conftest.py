"""Executed chapters and the rendered book, made once for all tests that look at them."""

from pathlib import Path

import pytest

from book import build


@pytest.fixture(scope="session")
def run():
    """`run("book/intro")` is that executed chapter; it runs only when something has changed."""
    done: dict[str, build.Run] = {}

    def chapter(name: str) -> build.Run:
        if name not in done:
            done[name] = build.execute(name)
        return done[name]

    return chapter


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the rendered book."""
    build.build()
    return build.ROOT / "_build" / "html"


def pytest_terminal_summary(terminalreporter):
    """Tell how long the prose of each chapter is."""
    for report in terminalreporter.getreports("passed"):
        for name, words in report.user_properties:
            if name == "words":
                terminalreporter.write_line(f"{words:6} words  {report.nodeid}")
