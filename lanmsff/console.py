"""How the commands of `lanmsff` and `data_prep` end: in one line, with an exit status."""

import argparse
import io
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

USER_ERROR, INTERRUPTED = 2, 130


def call(arguments: argparse.Namespace) -> int:
    """Run the command `arguments.run`. Gives its exit status: its own, or 0 where it has none.

    2 after one line on stderr that says what is wrong, 130 when stopped by Ctrl-C or SIGTERM: then
    what is half written is removed. Letters that stdout does not have are printed as escapes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return arguments.run(arguments) or 0
    except (ValueError, OSError) as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped; no file is half written", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with the name of the signal at Ctrl-C or SIGTERM; Ctrl-C after that ends at once.

    Not a second SIGTERM: clusters send it to a group of processes, and torchrun to each once more.
    """

    def tell(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, tell)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_one_line(error: Exception) -> str:
    """What went wrong, for a user; an `OSError` of a file names it."""
    if not isinstance(error, OSError):
        return str(error)
    place = error.filename2 or error.filename  # the second is where a file was to be moved
    return (f"{place}: " if place else "") + (error.strerror or str(error))
