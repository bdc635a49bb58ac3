"""Execute the chapters of the book, each once, and render them.

A chapter (MyST Markdown) becomes a notebook (jupytext), is executed (papermill) and kept in
`_build/executed`; it is executed again only when something it depends on has changed. Jupyter Book
then renders the `.md` with these outputs out of its cache, and executes nothing itself.

Chapters run in the folder of their own file, as Jupyter runs them, several at a time: they share
the processor's cores, as two chapters of one thread each are done before one after the other is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import joblib
import jupytext
import nbformat
import papermill
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from nbclient.exceptions import CellTimeoutError
from papermill.exceptions import PapermillExecutionError
from sphinx_external_toc.parsing import parse_toc_yaml

ROOT = Path(__file__).resolve().parents[1]
QUICK_CELL_LIMIT_S = 900
MOST_AT_A_TIME = 4  # each needs up to 2 GB of memory
STARTS = 3  # of a kernel: two that start at once may be given the same port, and then one dies

# What a chapter may read beside its own text; the data folder comes on top.
SOURCES = (
    "benchmarks/*.json",
    "book/*.py",
    "constraints.txt",
    "data_prep/**/*",
    "lanmsff/**/*",
    "results/**/*.json",
    "tests/golden/**/*",
)

KERNEL_ENVIRONMENT = {
    "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this .venv, not one of the user's home
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger writes a warning into the chapter
    "PYTHONHASHSEED": "0",
}
# The kernel's own log goes to the terminal, with lines about encryption and being interrupted at
# its end. A chapter's errors and warnings come through its outputs.
KERNEL_CONFIG = {
    "IPKernelApp": {"log_level": "CRITICAL"},
    "HistoryManager": {"enabled": False},
    "InteractiveShell": {"colors": "nocolor"},
}


class BuildError(Exception):
    """What went wrong, where, and what to do, ready to be printed."""


@dataclass(frozen=True)
class Run:
    """An executed chapter: its name in `_toc.yml`, notebook, seconds, and whether it ran now."""

    name: str
    notebook: nbformat.NotebookNode
    seconds: float
    fresh: bool


def pages(root: Path = ROOT) -> list[str]:
    """Return the names of all pages in `_toc.yml`, in reading order, the first page first."""
    site = parse_toc_yaml(root / "_toc.yml")

    def walk(name: str) -> Iterator[str]:
        yield name
        for tree in site[name].subtrees:
            for child in tree.items:
                if str(child) in site:
                    yield from walk(str(child))

    return list(walk(site.root.docname))


def chapters(root: Path = ROOT) -> list[str]:
    """Return the names of the pages that have code to execute."""
    files = {name: root / f"{name}.md" for name in pages(root)}
    return [
        name
        for name, file in files.items()
        if file.is_file() and is_myst_markdown_notebook(file.read_text("utf8"))
    ]


def fingerprint(root: Path, name: str, profile: str, data_dir: Path | None = None) -> str:
    """Return a hash over everything that the outputs of a chapter depend on."""
    digest = hashlib.sha256()
    given = "" if data_dir is None else "given"  # that is one cell more, be it the same folder
    data_dir = data_dir or root / "data"
    data_name = os.path.relpath(data_dir, root)
    for part in (profile, data_name, given, platform.python_version(), version("torch")):
        digest.update(part.encode() + b"\0")
    files = [root / f"{name}.md", *data_dir.glob("*")]
    files += [file for pattern in SOURCES for file in root.glob(pattern)]
    for file in sorted(set(files)):
        if file.is_file() and file.suffix != ".pyc":
            digest.update(os.path.relpath(file, root).encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def executed_path(root: Path, name: str, profile: str = "quick") -> Path:
    """Return where the executed notebook of a chapter is kept."""
    return root / "_build" / "executed" / profile / f"{name}.ipynb"


def execute(
    name: str, root: Path = ROOT, profile: str = "quick", data_dir: Path | None = None
) -> Run:
    """Execute one chapter, or return its kept result when nothing it depends on has changed.

    `data_dir` is where prepared data lies; the default is the project's `data` folder.
    Raises `BuildError` when a cell fails; an earlier result is then kept.
    """
    key = fingerprint(root, name, profile, data_dir)
    return _kept(name, root, profile, key) or _execute(name, root, profile, data_dir, key)


def execute_all(
    root: Path = ROOT, profile: str = "quick", data_dir: Path | None = None
) -> list[Run]:
    """Execute every chapter and print how long each took; raise one `BuildError` for all."""
    names = chapters(root)
    keys = {name: fingerprint(root, name, profile, data_dir) for name in names}
    runs = {name: _kept(name, root, profile, key) for name, key in keys.items()}
    changed = [name for name, run in runs.items() if run is None]
    cores = joblib.cpu_count()
    workers = max(1, min(cores, MOST_AT_A_TIME, len(changed)))
    # processes, because papermill changes into the chapter's folder
    with joblib.parallel_config("loky", inner_max_num_threads=cores // workers):
        results = joblib.Parallel(workers, return_as="generator")(
            joblib.delayed(_attempt)(name, root, profile, data_dir, keys[name]) for name in changed
        )
    errors = []
    for name in names:
        if runs[name] is None:
            runs[name], error = next(results)
            errors += [error] if error else []
        run = runs[name]
        seconds = f"{run.seconds:7.1f} s" if run else " failed"
        print(f"{name:32}{seconds}{'  (unchanged)' if run and not run.fresh else ''}", flush=True)
    if errors:
        raise BuildError("\n".join(errors))
    return list(runs.values())


def _attempt(*args) -> tuple[Run | None, str]:
    """Return an executed chapter and no error, or no chapter and the error."""
    try:
        return _execute(*args), ""
    except BuildError as error:
        return None, str(error)


def _kept(name: str, root: Path, profile: str, key: str) -> Run | None:
    """Return the kept result of a chapter, or None if it is of another fingerprint than `key`."""
    kept = executed_path(root, name, profile)
    if not kept.is_file():
        return None
    notebook = nbformat.read(kept, as_version=4)
    if notebook.metadata.get("book", {}).get("key") != key:
        return None
    return Run(name, notebook, notebook.metadata.papermill.duration, fresh=False)


def _execute(name: str, root: Path, profile: str, data_dir: Path | None, key: str) -> Run:
    source, kept = root / f"{name}.md", executed_path(root, name, profile)
    parameters = {}
    if profile != "quick":
        parameters["profile"] = profile
    if data_dir is not None:
        parameters["data_dir"] = str(data_dir.resolve())
    _configure_kernel(root / "_build" / "ipython")
    working = kept.with_suffix(".part.ipynb")
    working.parent.mkdir(parents=True, exist_ok=True)
    try:
        for attempt in range(1, STARTS + 1):
            try:
                notebook = papermill.execute_notebook(
                    jupytext.reads(source.read_text("utf8"), fmt="md:myst"),
                    working,
                    parameters=parameters,
                    kernel_name="python3",
                    cwd=source.parent,
                    progress_bar=False,
                    execution_timeout=QUICK_CELL_LIMIT_S if profile == "quick" else None,
                )
                break
            except RuntimeError as error:  # also of a kernel that died later, as a subclass
                if attempt == STARTS or "died before replying" not in str(error):
                    raise
    except PapermillExecutionError as error:
        cell = error.exec_count - bool(parameters)  # which come in a cell of their own
        line = _cell_lines(source)[cell - 1]
        raise BuildError(
            f"{source.relative_to(root)}:{line}, code cell {cell}: "
            f"{error.ename}: {error.evalue}\n" + "\n".join(error.traceback)
        ) from None
    except (CellTimeoutError, RuntimeError) as error:  # the latter of kernels that died
        raise BuildError(f"{source.relative_to(root)}: {error}") from None
    notebook.metadata["book"] = {"key": key}
    nbformat.write(notebook, working)
    os.replace(working, kept)
    return Run(name, notebook, notebook.metadata.papermill.duration, fresh=True)


def _configure_kernel(folder: Path) -> None:
    """Make kernels independent of the user's IPython settings."""
    profile = folder / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    aside = profile / f"{os.getpid()}.part"  # the kernel of another chapter may be reading it
    aside.write_text(json.dumps(KERNEL_CONFIG))
    os.replace(aside, profile / "ipython_kernel_config.json")
    os.environ.update(KERNEL_ENVIRONMENT, IPYTHONDIR=str(folder))


def _read_as_rendered(source: Path) -> nbformat.NotebookNode:
    """Return the chapter as the notebook that Jupyter Book sees."""
    return read_myst_markdown_notebook(source.read_text("utf8"), add_source_map=True, path=source)


def _cell_lines(source: Path) -> list[int]:
    """Return the line in the chapter at which each code cell starts."""
    notebook = _read_as_rendered(source)
    starts = zip(notebook.cells, notebook.metadata.source_map, strict=True)
    return [line for cell, line in starts if cell.cell_type == "code"]


def fill_cache(runs: list[Run], root: Path = ROOT) -> None:
    """Give Jupyter Book's cache the outputs of the executed chapters, and nothing else.

    The cache finds an entry by the code cells and their metadata. The outputs are therefore put
    into the notebook as Jupyter Book reads it: papermill's own marks would hide the entry.
    """
    folder = root / "_build" / ".jupyter_cache"
    shutil.rmtree(folder, ignore_errors=True)
    cache = get_cache(folder)
    for run in runs:
        source = root / f"{run.name}.md"
        notebook = _read_as_rendered(source)
        executed = [cell for cell in run.notebook.cells if cell.cell_type == "code"]
        rendered = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for cell, done in zip(rendered, executed, strict=True):
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
        cache.cache_notebook_bundle(
            CacheBundleIn(notebook, str(source), data={"execution_seconds": run.seconds}),
            check_validity=False,
        )


def render(runs: list[Run], root: Path = ROOT) -> Path:
    """Render the book from the executed chapters and return the path of its first page.

    Raises `BuildError` on any warning of Jupyter Book, such as a reference that leads nowhere.
    """
    build = root / "_build"
    fill_cache(runs, root)
    # Sphinx compares the .md files only and warns of each once: without what it keeps, new outputs
    # and a new style sheet get into every page, and a warning fails every build.
    shutil.rmtree(build / ".doctrees", ignore_errors=True)
    command = "from jupyter_book.cli.main import main; main()"
    options = ["build", ".", "-W", "-n", "--keep-going"]
    done = subprocess.run(
        [sys.executable, "-c", command, *options], cwd=root, capture_output=True, text=True
    )
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)  # without its colours
    log = build / "render.log"
    log.write_text(said, "utf8")
    if "Executing notebook" in said:
        raise BuildError(f"a chapter was executed a second time to render it: see {log}")
    if done.returncode:
        lines = said.splitlines()
        told = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-15:]
        raise BuildError("\n".join([f"the book does not render (all of it: {log}):", *told]))
    return build / "html" / f"{pages(root)[0]}.html"


def build(root: Path = ROOT) -> Path:
    """Execute what changed, render the book, and return the path of its first page."""
    runs = execute_all(root)
    print(f"rendering {len(pages(root))} pages", flush=True)
    return render(runs, root)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=("quick", "full"), default="quick")
    parser.add_argument("--data-dir", type=Path, help="folder of prepared data (default: data)")
    options = parser.parse_args(arguments)
    if options.data_dir is not None and not options.data_dir.is_dir():
        parser.error(f"--data-dir: no folder {options.data_dir.absolute()}")
    try:
        if options.profile == "quick" and options.data_dir is None:
            print(f"the book: {build(root)}")
        else:  # other parameters give other outputs than the text of the book speaks of
            for run in execute_all(root, options.profile, options.data_dir):
                print(executed_path(root, run.name, options.profile))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
