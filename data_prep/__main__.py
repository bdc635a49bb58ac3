"""`python -m data_prep COMMAND`: one command for each data set, one to count, one to download."""

from __future__ import annotations

import argparse
import sys

from data_prep import download, fer2013, ferplus, kdef, posefaces, statistics
from lanmsff.data import DataError, in_one_line

DESCRIPTION = "Prepare data sets for lanmsff: check, clean, split and record them."
# each: add_parser(subparsers), run(args)
COMMANDS = (fer2013, ferplus, kdef, posefaces, statistics, download)


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when done, 2 with one line on stderr for bad input, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=DESCRIPTION)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (DataError, OSError) as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: stopped; no file is half written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
