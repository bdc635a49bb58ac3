"""`python -m lanmsff COMMAND`: see `lanmsff.commands`."""

import argparse
import sys
from importlib import import_module
from types import ModuleType

from lanmsff.data import in_one_line

DESCRIPTION = "Train, score and explain LANMSFF."
COMMANDS = ("train", "evaluate", "explain", "predict", "export", "grid", "bench")
USER_ERROR = 2


def _commands(words: list[str]) -> list[ModuleType]:
    """The modules to ask: that of the command that is called, or all, where none is.

    So training starts without the libraries of figures and explanations, and where they are not.
    """
    called = [name for name in COMMANDS if words[:1] == [name]]
    return [import_module(f"lanmsff.commands.{name}") for name in called or COMMANDS]


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 2 after one line that says what is wrong.

    `predict` and `grid` also have 1: some photographs could not be read, some jobs failed.
    """
    parser = argparse.ArgumentParser(prog="python -m lanmsff", description=DESCRIPTION)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _commands(sys.argv[1:] if argv is None else argv):
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    try:
        status = arguments.run(arguments)  # None but where a command has its own statuses
    except (ValueError, OSError) as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
