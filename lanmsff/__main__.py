"""`python -m lanmsff COMMAND`: see `lanmsff.commands`."""

import argparse
import sys
from importlib import import_module
from types import ModuleType

from lanmsff.console import call
from lanmsff.results import package_version

DESCRIPTION = "Train, score and explain LANMSFF."
COMMANDS = ("train", "evaluate", "explain", "predict", "export", "grid", "bench")


def _commands(words: list[str]) -> list[ModuleType]:
    """The modules to ask: that of the command that is called, or all, where none is.

    So training starts without the libraries of figures and explanations, and where they are not.
    """
    called = [name for name in COMMANDS if words[:1] == [name]]
    return [import_module(f"lanmsff.commands.{name}") for name in called or COMMANDS]


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status, as `lanmsff.console.call` does.

    `predict` and `grid` also have 1: some photographs could not be read, some jobs failed; `grid`
    and `train` have 75: to be gone on with.
    """
    parser = argparse.ArgumentParser(prog="python -m lanmsff", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=package_version())
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _commands(sys.argv[1:] if argv is None else argv):
        command.add_parser(subparsers)
    return call(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
