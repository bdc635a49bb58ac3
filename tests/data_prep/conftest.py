"""A small stand-in for FER-2013 and FERPlus, written in every form in which they are shipped.

Every face is of one flat grey, which a JPEG keeps exactly, so all forms can be compared in full.
"""

import csv
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import fer2013, ferplus
from data_prep.__main__ import main
from data_prep.sources import BadRows

USAGES = ("Training", "PublicTest", "PrivateTest")
CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
PER_SPLIT = (14, 7, 7)


def _greys() -> list[int]:
    greys = [8 * row + 9 for row in range(sum(PER_SPLIT))]
    greys[3] = 0  # a black face in train
    greys[5] = greys[4]  # a duplicate inside train leaks nothing
    greys[15] = greys[1]  # val from train
    greys[22] = greys[1]  # test from train and val: train is the earliest
    greys[23] = greys[16]  # test from val
    return greys


@dataclass
class StandIn:
    """28 faces; writes itself in the csv forms, as JPEGs or as votes. Spoil fields first."""

    usage: list[str] = field(
        default_factory=lambda: np.repeat(USAGES, PER_SPLIT).tolist()
    )
    labels: list[object] = field(
        default_factory=lambda: [row % 7 for row in range(sum(PER_SPLIT))]
    )
    pixels: list[str] = field(
        default_factory=lambda: [" ".join([str(grey)] * 2304) for grey in _greys()]
    )

    def fer2013(self, folder: Path, name: str = "fer2013.csv") -> Path:
        rows = zip(self.labels, self.pixels, self.usage, strict=True)
        return self._csv(folder / name, ["emotion", "pixels", "Usage"], rows)

    def icml(self, folder: Path) -> Path:
        rows = zip(self.labels, self.usage, self.pixels, strict=True)
        return self._csv(folder / "icml_face_data.csv", ["emotion", " Usage", " pixels"], rows)

    def train(self, folder: Path) -> Path:
        rows = [row[:2] for row in zip(self.labels, self.pixels, self.usage, strict=True)
                if row[2] == "Training"]
        self._csv(folder / "test.csv", ["pixels"], [[self.pixels[-1]]])
        return self._csv(folder / "train.csv", ["emotion", "pixels"], rows, csv.QUOTE_ALL)

    def jpegs(self, folder: Path) -> Path:
        for row, (label, usage) in enumerate(zip(self.labels, self.usage, strict=True)):
            top = "train" if usage == "Training" else "test"
            file = folder / top / CLASSES[label] / f"{usage}_{row}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            grey = int(self.pixels[row].split(" ", 1)[0])
            Image.fromarray(np.full((48, 48), grey, np.uint8)).save(file)
        return folder

    def votes(self, folder: Path, votes: np.ndarray, names: list[str]) -> Path:
        header = ["Usage", "Image name", "neutral", "happiness", "surprise", "sadness", "anger",
                  "disgust", "fear", "contempt", "unknown", "NF"]
        rows = [[u, n, *v] for u, n, v in zip(self.usage, names, votes.tolist(), strict=True)]
        return self._csv(folder / "fer2013new.csv", header, rows)

    @staticmethod
    def _csv(path: Path, header: list[str], rows, quoting=csv.QUOTE_MINIMAL) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="") as file:
            writer = csv.writer(file, quoting=quoting, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
        return path


@pytest.fixture(scope="session")
def real_rows(fer2013_raw) -> fer2013.Rows:
    """The real FER-2013, read once for all tests."""
    return fer2013.read(fer2013_raw, BadRows(skip=False))


@pytest.fixture(scope="session")
def real_ferplus(fer2013_raw, real_rows):
    """The real faces, votes and lists, as `ferplus.label` takes them."""
    bad = BadRows(skip=False)
    votes = ferplus.read_votes((fer2013_raw / ferplus.VOTES_FILE).read_bytes(), "votes", bad)
    members = {mark: ferplus.read_list((fer2013_raw / file).read_bytes(), file)
               for mark, file in ferplus.LISTS.items() if (fer2013_raw / file).is_file()}
    return real_rows, votes, members


@pytest.fixture
def standin() -> StandIn:
    return StandIn()


@pytest.fixture
def pack(tmp_path):
    """`pack(folder, "x.zip" or "x.tar.gz")` archives a folder the way Kaggle does."""

    def make(folder: Path, name: str) -> Path:
        archive = tmp_path / "packed" / name
        archive.parent.mkdir(exist_ok=True)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if name.endswith(".zip"):
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
                for file in files:
                    packed.write(file, file.relative_to(folder))
        else:
            with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
                for file in files:
                    packed.add(file, Path("fer2013") / file.relative_to(folder))
        return archive

    return make


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must fail and give its one line; status 2, nothing written."""

    def run(command: str, source: Path, *options: str) -> str:
        out = tmp_path / "prepared" / "faces.npz"
        out.parent.mkdir()
        status = main([command, "--source", str(source), "--out", str(out), *options])
        printed = capsys.readouterr()
        assert status == 2
        assert list(out.parent.iterdir()) == []
        assert "Traceback" not in printed.err
        line, end = printed.err.split("\n", 1)
        assert end == "" and line.startswith("error: ")
        return line

    return run
