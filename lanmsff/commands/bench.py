"""`python -m lanmsff bench`: how fast the library is on this device, against a plain loop."""

import argparse
import re
from pathlib import Path
from typing import Any

from lanmsff.commands.arguments import add_device, device_and_precision, duration


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure speed, against a plain float32 loop",
        description="Measure how fast the library trains and scores on this device, against a plain "
        "float32 loop in the same run; see benchmarks/README.md.",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="write the record there; into a folder under the name of the device",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=duration, default=90.0,
        help="for each figure, about; what takes longer is left out (default: 90)",
    )  # fmt: skip
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from lanmsff.bench import bench
    from lanmsff.data import check_writable
    from lanmsff.results import write_record

    device, precision = device_and_precision(arguments)
    path = arguments.json
    if path:
        check_writable(path, "folder" if path.is_dir() else "file")
    record = bench(device, precision, arguments.seconds, say=lambda line: print(f"... {line}"))
    for line in table(record):
        print(line)
    if path:
        if path.is_dir():
            path = path / f"{file_name(record['environment'])}.json"
        write_record(path, record)
        print(path)


def file_name(about: dict[str, Any]) -> str:
    """A name for the record of a device, from its environment: "cpu-x86-64-2-cores-amd-epyc"."""
    processor = about.get("processor", "").partition(":")[0]  # what comes then are instructions
    words = f"{about['device']} {processor}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def table(record: dict[str, Any]) -> list[str]:
    """The record in lines."""
    about = record["environment"]
    lines = [f"{about['device']}, {about['precision']}, {about['threads']} threads, torch "
             f"{about['torch']}"]  # fmt: skip
    for kind in ("training", "inference"):
        lines += ["", f"{kind:10} {'batch':>6} {'plain':>12} {'library':>12} {'ratio':>7}  images/s"]
        lines += [
            f"{'':10} {batch:>6} {of['plain']:12,.1f} {of['library']:12,.1f} {of['ratio']:7.2f}"
            for batch, of in record[kind].items()
        ]
    lines += ["", f"training at batch 32 {'images/s':>13} {'ratio':>7}"]
    lines += [f"  without {name:12} {of['images_per_second']:11,.1f} {of['ratio']:7.2f}"
              for name, of in record["without"].items()]  # fmt: skip
    lines += ["", "one face   " + ", ".join(
        f"{name} {'-' if ms is None else format(ms, '.2f')} ms"
        for name, ms in record["latency_ms"].items()
    )]  # fmt: skip
    lines += ["start-up   " + ", ".join(
        f"{name.replace('_', ' ')} {seconds:.1f} s"
        for name, seconds in record["startup_seconds"].items()
    )]  # fmt: skip
    if record.get("bandwidth"):
        lines += [f"bandwidth  {record['bandwidth']['bytes_per_second'] / 1e9:,.0f} GB/s"]
        lines += [
            f"  {kind}: share of what it allows "
            + ", ".join(f"{share:.0%} at batch {batch}" for batch, share in of.items())
            for kind, of in record["bandwidth"]["share_of_bound"].items()
        ]
    return lines + [f"left out   {what}" for what in record["left_out"]]
