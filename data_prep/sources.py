"""What the user has downloaded, a folder, an archive or one file, as a list of named streams.

Archives are read as streams and never unpacked, so no name inside them is ever used as a path.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lanmsff.data import DataError

MAX_BYTES = 2**30  # of one file in a source; FER-2013 as a csv has 301 MB
_DEPTH = 4  # folders below the source that are looked into: DIR/fer2013/train/angry/*.jpg
_CLUTTER = {"thumbs.db", "desktop.ini"}
_DAMAGE = (EOFError, NotImplementedError, zlib.error, lzma.LZMAError, gzip.BadGzipFile,
           tarfile.TarError, zipfile.BadZipFile, UnicodeDecodeError)  # the last: of a name


@dataclass
class Source:
    """Files by name, sizes in bytes; `open(name)` gives a binary stream."""

    path: Path
    sizes: dict[str, int]
    open: Callable[[str], BinaryIO]

    @property
    def names(self) -> list[str]:
        """Names with forward slashes, in the order in which they are read fastest."""
        return list(self.sizes)

    def find(self, filename: str) -> str | None:
        """The file of that name, in any case, nearest to the top; None if there is none."""
        hits = [n for n in self.names if PurePosixPath(n).name.lower() == filename.lower()]
        return min(hits, key=lambda name: (name.count("/"), name), default=None)

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """The whole file; `DataError` where it is larger than `limit` bytes."""
        with self.open(name) as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise DataError(f"{self.path}: {name} is larger than {limit:,} bytes")
        return content

    def checksums(self, name: str) -> tuple[str, str]:
        """(sha256, md5) of one file, as hexadecimal text."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with self.open(name) as stream:
            while block := stream.read(1 << 20):
                sha256.update(block)
                md5.update(block)
        return sha256.hexdigest(), md5.hexdigest()


@contextmanager
def open_source(path: str | Path) -> Iterator[Source]:
    """Open a folder, a .zip, a .tar(.gz) or a single file.

    Raises `DataError` where there is nothing, or where an archive turns out to be damaged, also
    later while its streams are read inside the `with` block.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; data_prep/README.md says where each "
                        "source comes from")
    try:
        if path.is_dir():
            yield _folder(path)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(member.flag_bits & 1 for member in archive.infolist()):
                    raise DataError(f"{path}: is encrypted; unpack it and name the folder")
                sizes = {m.filename: m.file_size for m in archive.infolist() if not m.is_dir()}
                yield _source(path, sizes, archive.open)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                members = {m.name: m for m in archive.getmembers() if m.isfile()}
                sizes = {name: member.size for name, member in members.items()}
                yield _source(path, sizes, lambda name: archive.extractfile(members[name]))
        elif path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz"):
            raise DataError(f"{path}: a damaged or cut-off archive, fetch it again; or a single "
                            "packed file, unpack it first")
        else:
            yield _source(path, {path.name: path.stat().st_size}, lambda name: path.open("rb"))
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        text = f"{path}: a damaged or cut-off archive ({reason}); fetch it again"
        raise DataError(text) from None


def _source(path: Path, sizes: dict[str, int], opener: Callable[[str], BinaryIO]) -> Source:
    kept = {name: size for name, size in sizes.items() if not _is_clutter(name)}
    large = next((name for name, size in kept.items() if size > MAX_BYTES), None)
    if large is not None:
        raise DataError(f"{path}: {large} has {kept[large]:,} bytes, more than {MAX_BYTES:,}")
    return Source(path, kept, opener)


def _folder(path: Path) -> Source:
    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that it may not read

    sizes = {}
    for folder, inside, files in os.walk(path, onerror=refuse):
        relative = Path(folder).relative_to(path)
        if len(relative.parts) >= _DEPTH:
            inside.clear()
        inside.sort()
        for file in sorted(files):
            if (Path(folder) / file).is_file():
                sizes[(relative / file).as_posix()] = (Path(folder) / file).stat().st_size
    return _source(path, sizes, lambda name: (path / name).open("rb"))


def _is_clutter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") and part.strip(".") or part == "__MACOSX" for part in parts)
    return hidden or parts[-1].lower() in _CLUTTER


@dataclass
class BadRows:
    """What to do with a row that cannot be used: refuse it, or leave it out and list it."""

    skip: bool
    listed: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Note one bad row; raises `DataError` unless bad rows are to be skipped."""
        if not self.skip:
            raise DataError(f"{text}; --skip-bad leaves such rows out")
        self.listed.append(text)
