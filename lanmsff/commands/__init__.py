"""The commands of `python -m lanmsff`, one a file: `add_parser(subparsers)` and `run(arguments)`."""
