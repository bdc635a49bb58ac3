"""`python -m data_prep COMMAND`: one command for each data set, one to count, one to download."""

from __future__ import annotations

import argparse
import sys

from data_prep import download, fer2013, ferplus, kdef, posefaces, statistics
from lanmsff.console import call

DESCRIPTION = "Prepare data sets for lanmsff: check, clean, split and record them."
# each: add_parser(subparsers), run(args)
COMMANDS = (fer2013, ferplus, kdef, posefaces, statistics, download)


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status, as `lanmsff.console.call` does."""
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=DESCRIPTION)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return call(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
