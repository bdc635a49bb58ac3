"""The files around the code agree, and the Makefile says clearly what is wrong."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import lanmsff

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED_BY_USERS = {
    "grad-cam", "jupyter-book", "jupytext", "matplotlib", "papermill", "pytest", "torch",
    "torchvision",
}  # fmt: skip

FAKE_PYTHON = """\
#!/bin/sh
case "$1 $2" in
  "-c "*)     echo "$FAKE_VERSION"; case $FAKE_VERSION in 3.1[123].*) ;; *) exit 1 ;; esac ;;
  "-m venv")  mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip")   echo "$@" >> pip-calls
              [ -z "$FAKE_PIP_ERROR" ] || { echo "$FAKE_PIP_ERROR"; exit 1; } ;;
esac
"""


# Without what an outer make hands down: `make test` runs these tests.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_requirement_has_a_pin_that_satisfies_it():
    asked = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    asked = [line for line in asked if not line.startswith("lanmsff[")]  # other extras
    for requirement in map(Requirement, asked):
        pin = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), requirement


def test_pins_fit_machines_with_and_without_a_gpu():
    assert not [name for name, version in pins().items() if "+" in version]
    assert not [name for name in pins() if name.startswith(("nvidia", "cuda", "triton"))]


def test_environment_yml_has_the_pins_of_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    packages = [line for line in pip["pip"] if not line.startswith("-")]
    assert {line.split("==")[0] for line in packages} == NAMED_BY_USERS
    assert all(line.split("==")[1] == pins()[line.split("==")[0]] for line in packages)
    assert [line for line in pip["pip"] if line.startswith("-")] == [
        "-c constraints.txt",
        "-e .[book,test]",
    ]


def test_pythons_agree():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in (ROOT / "tools" / "venv.sh").read_text()


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert PROJECT["version"] == lanmsff.__version__ == citation["version"] == latest


def test_ci_runs_the_two_commands_of_the_readme():
    commands = re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert commands == ["make book", "make test"]
    readme = (ROOT / "README.md").read_text()
    assert all(re.search(rf"^\s*{command}\b", readme, re.MULTILINE) for command in commands)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_make_help_lists_every_target():
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert re.findall(r"^make ([\w-]+)", shown.stdout, re.MULTILINE) == phony.split()


@pytest.fixture
def make(tmp_path):
    """`make(version=..., pip_error=...)` calls `make venv` in a copy, with a pretended Python."""
    copy = tmp_path / "a folder with blanks"
    copy.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools"):
        (shutil.copytree if name == "tools" else shutil.copy)(ROOT / name, copy / name)
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def call(version="3.12.1", pip_error="", python=python):
        environment = {
            **ENVIRONMENT,
            "PYTHON": str(python),
            "FAKE_VERSION": version,
            "FAKE_PIP_ERROR": pip_error,
        }
        return subprocess.run(
            ["make", "venv"], cwd=copy, env=environment, capture_output=True, text=True
        )

    call.folder = copy
    return call


def told(done) -> str:
    """The one line in which a failed call says what is wrong; the other is make's own."""
    assert done.returncode != 0
    ours, makes_own = done.stderr.splitlines()
    assert makes_own.startswith("make: ***")
    assert ours.startswith("error: ")
    return ours


@pytest.mark.parametrize("version", ["2.7.18", "3.9.18", "3.10.13", "3.14.0"])
def test_a_python_that_does_not_fit_is_refused(make, version):
    line = told(make(version))
    assert version in line and "3.11, 3.12 or 3.13 is needed" in line
    assert not (make.folder / ".venv").exists()


def test_a_missing_python_is_named(make):
    assert "no-such-python is not there" in told(make(python="no-such-python"))


def test_a_second_call_installs_nothing_until_a_pin_changes(make):
    calls = make.folder / "pip-calls"
    for _ in range(2):
        assert make().returncode == 0
    assert len(calls.read_text().splitlines()) == 1
    assert "-c constraints.txt -e .[book,test]" in calls.read_text()
    with (make.folder / "constraints.txt").open("a") as file:
        file.write("another==1.0\n")
    assert make().returncode == 0
    assert len(calls.read_text().splitlines()) == 2


def test_an_install_that_failed_is_told_in_one_line_and_taken_up_again(make):
    line = told(make(pip_error="ERROR: Could not find a version that satisfies torch==2.15.0"))
    assert "installing the packages failed: ERROR: Could not find a version" in line
    assert "venv.log" in line
    assert not (make.folder / ".venv" / "installed").exists()
    assert make().returncode == 0
    assert not (make.folder / "venv.log").exists()


def test_a_full_disk_is_told(make):
    line = told(make(pip_error="ERROR: [Errno 28] No space left on device"))
    assert "the disk is full" in line


def test_a_broken_venv_is_told(make):
    assert make().returncode == 0
    python = make.folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")
    assert "the Python in .venv is broken" in told(make())
