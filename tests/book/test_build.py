"""The pipeline on a made-up book: what is executed when, and what is said when something fails."""

import sys
from ast import literal_eval

import nbformat
import pytest
from bs4 import BeautifulSoup

from book import build

HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3 (ipykernel)
  language: python
  name: python3
---

# {title}

```{{code-cell}} ipython3
:tags: [parameters]

profile = "quick"
data_dir = "../data"
```

"""
ONE = """\
```{code-cell} ipython3
from pathlib import Path

with open("../ran.txt", "a") as file:
    file.write("one ")
word = Path("../lanmsff/word.txt").read_text()
f"the word is {word}, the profile {profile}"
```

See [the second](two.md).
"""


@pytest.fixture
def root(tmp_path):
    """A book of two chapters and a page without code."""
    for folder in ("book", "data", "lanmsff"):
        (tmp_path / folder).mkdir()
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n- file: book/one\n- file: book/two\n"
    )
    (tmp_path / "_config.yml").write_text(
        "title: Made up\nonly_build_toc_files: true\nexecute: {execute_notebooks: cache}\n"
    )
    (tmp_path / "book" / "intro.md").write_text("# Made up\n\nNo code.\n")
    (tmp_path / "lanmsff" / "word.txt").write_text("first")
    write(tmp_path, "one", ONE)
    write(tmp_path, "two", "```{code-cell} ipython3\n1 + 1\n```\n")
    return tmp_path


def write(root, name, body):
    (root / "book" / f"{name}.md").write_text(HEADER.format(title=name) + body)


def times_run(root):
    return len((root / "ran.txt").read_text().split())


def outputs_on_page(root, name):
    file = root / "_build" / "html" / "book" / f"{name}.html"
    page = BeautifulSoup(file.read_text("utf8"), "html.parser")
    return [output.get_text().strip() for output in page.select(".cell_output pre")]


def test_pages_and_chapters(root):
    assert build.pages(root) == ["book/intro", "book/one", "book/two"]
    assert build.chapters(root) == ["book/one", "book/two"]


def test_each_chapter_is_executed_once_and_rendered_with_its_outputs(root, capsys):
    first_page = build.build(root)
    assert first_page == root / "_build" / "html" / "book" / "intro.html"
    assert first_page.is_file()
    assert times_run(root) == 1
    log = (root / "_build" / "render.log").read_text()
    assert log.count("Using cached notebook") == 2
    assert "Executing notebook" not in log
    assert outputs_on_page(root, "one") == ["'the word is first, the profile quick'"]
    assert outputs_on_page(root, "two") == ["2"]
    assert "unchanged" not in capsys.readouterr().out

    build.build(root)
    assert times_run(root) == 1
    assert capsys.readouterr().out.count("unchanged") == 2


def test_chapters_run_at_the_same_time_and_share_the_cores(root, monkeypatch):
    monkeypatch.setattr(build.joblib, "cpu_count", lambda: 2)
    for own, other in (("one", "two"), ("two", "one")):
        meet = [
            "import os, pathlib, time",
            f"pathlib.Path('../met-{own}').touch()",
            "end = time.monotonic() + 120",
            f"while not os.path.exists('../met-{other}'):",
            "    assert time.monotonic() < end, 'nobody came'",
            "    time.sleep(0.1)",
            "os.environ['OMP_NUM_THREADS']",
        ]
        write(root, own, "```{code-cell} ipython3\n" + "\n".join(meet) + "\n```\n")
    threads = [run.notebook.cells[-1].outputs[0].data["text/plain"] for run in
               build.execute_all(root)]  # fmt: skip
    assert threads == ["'1'", "'1'"]


@pytest.mark.parametrize("deaths", [1, 3])
def test_a_kernel_that_found_its_port_taken_is_started_again(deaths, root, monkeypatch):
    execute, calls = build.papermill.execute_notebook, []

    def die(*words, **options):
        calls.append(1)
        if len(calls) <= deaths:
            raise RuntimeError("Kernel died before replying to kernel_info")
        return execute(*words, **options)

    monkeypatch.setattr(build.papermill, "execute_notebook", die)
    words = ("book/one", root, "quick", None, "key")
    if deaths < build.STARTS:
        assert build._execute(*words).fresh
    else:
        with pytest.raises(build.BuildError, match=r"book/one\.md: Kernel died before replying"):
            build._execute(*words)
    assert len(calls) == min(deaths + 1, build.STARTS)


@pytest.mark.parametrize(
    "file",
    ["lanmsff/new.py", "data_prep/new.py", "data/new.zip", "results/new.json", "constraints.txt",
     "book/helper.py", "tests/golden/new.npz"],
)  # fmt: skip
def test_what_a_chapter_depends_on_counts_as_change(root, file):
    args = (root, "book/one", "quick")
    before = build.fingerprint(*args)
    (root / "README.md").write_text("no chapter reads it")
    assert build.fingerprint(*args) == before
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("1")
    assert build.fingerprint(*args) != before


def test_a_changed_library_brings_new_outputs_to_the_unchanged_page(root):
    build.build(root)
    (root / "lanmsff" / "word.txt").write_text("second")
    build.build(root)
    assert times_run(root) == 2
    assert outputs_on_page(root, "one") == ["'the word is second, the profile quick'"]


def test_a_changed_style_sheet_is_rendered_without_a_changed_page(root):
    style = root / "book" / "_static" / "style.css"
    style.parent.mkdir()
    with (root / "_config.yml").open("a") as config:
        config.write("sphinx: {config: {html_static_path: [book/_static]}}\n")
    for color in ("red", "blue"):
        style.write_text(color)
        build.build(root)
        assert (root / "_build" / "html" / "_static" / "style.css").read_text() == color
    assert times_run(root) == 1


def test_new_outputs_are_rendered_after_a_build_that_failed_elsewhere(root):
    """The chapter that is unchanged now was executed by the build that failed."""
    build.build(root)
    (root / "lanmsff" / "word.txt").write_text("second")
    write(root, "two", "```{code-cell} ipython3\n1 / 0\n```\n")
    assert build.main([], root) == 2
    write(root, "two", "```{code-cell} ipython3\n1 + 1\n```\n")
    build.build(root)
    assert times_run(root) == 2
    assert outputs_on_page(root, "one") == ["'the word is second, the profile quick'"]


def test_a_failing_cell_is_named_and_earlier_results_are_kept(root, capsys):
    build.build(root)
    kept = build.executed_path(root, "book/one").read_bytes()
    write(root, "one", "```{code-cell} ipython3\nx = 0\n1 / x\n```\n")
    assert build.main([], root) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: book/one.md:21, code cell 2: ZeroDivisionError: division")
    assert "1 / x" in error
    assert build.executed_path(root, "book/one").read_bytes() == kept
    assert build.executed_path(root, "book/two").is_file()


def test_the_cell_of_parameters_is_not_counted(root, capsys):
    """The data folder is the default one, and the next build has to know that it was named."""
    data = ["--data-dir", str(root / "data")]
    assert build.main(data, root) == 0
    build.build(root)
    assert times_run(root) == 2
    write(root, "two", "```{code-cell} ipython3\n1 / 0\n```\n")
    assert build.main(data, root) == 2
    assert "error: book/two.md:21, code cell 2: ZeroDivisionError" in capsys.readouterr().err


def test_a_cell_that_does_not_end_is_stopped(root, monkeypatch):
    monkeypatch.setattr(build, "QUICK_CELL_LIMIT_S", 1)
    write(root, "one", "```{code-cell} ipython3\nimport time; time.sleep(60)\n```\n")
    with pytest.raises(build.BuildError, match=r"book/one\.md: A cell timed out"):
        build.execute("book/one", root)


def test_a_broken_reference_fails_every_time(root):
    write(root, "two", "See [nothing](three.md) and {ref}`nowhere`.\n")
    for _ in range(2):
        with pytest.raises(build.BuildError, match="(?s)three.md.*nowhere"):
            build.build(root)


def test_a_second_execution_is_an_error(root, monkeypatch):
    runs = build.execute_all(root)
    monkeypatch.setattr(build, "fill_cache", lambda runs, root: None)
    with pytest.raises(build.BuildError, match="executed a second time"):
        build.render(runs, root)


def test_a_data_folder_that_is_not_there(root, capsys):
    with pytest.raises(SystemExit):
        build.main(["--data-dir", str(root / "nowhere")], root)
    assert f"--data-dir: no folder {root / 'nowhere'}\n" in capsys.readouterr().err
    assert not (root / "_build").exists()


def test_full_profile_is_kept_apart(root):
    quick = build.execute("book/one", root)
    full = build.execute("book/one", root, "full", root / "data")
    assert full.notebook.cells[-2].outputs[0].data["text/plain"].endswith("profile full'")
    assert build.executed_path(root, "book/one", "full").is_file()
    assert nbformat.read(build.executed_path(root, "book/one"), 4) == quick.notebook
    assert not build.execute("book/one", root).fresh


def test_chapters_run_beside_their_file_on_this_python(root):
    body = "import os, sys\nsys.executable, os.getcwd()"
    write(root, "two", f"```{{code-cell}} ipython3\n{body}\n```\n")
    output = build.execute("book/two", root).notebook.cells[-1].outputs[0]
    assert literal_eval(output.data["text/plain"]) == (sys.executable, str(root / "book"))
