"""Fetch what the data sets are made of: by pooch, and FER-2013 by kagglehub."""

from __future__ import annotations

import argparse
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from data_prep.posefaces import ict
from lanmsff.data import DataError, replacing

_FERPLUS = ("https://raw.githubusercontent.com/microsoft/FERPlus/"
            "ae2128abf776409c93e50cf7c9d87180673314e6/")
_CHALLENGE = "https://raw.githubusercontent.com/kaiwang960112/Challenge-condition-FER-dataset/"
_LISTS = f"{_CHALLENGE}e43d7a06e696f3f87feb3cbced739a286bc08679/FERplus_dir/"
_RAN = f"{_CHALLENGE}21c6ecba6e372aa025a332225b35dccc624d4f9c/FERplus_dir/"
COMPETITION = "challenges-in-representation-learning-facial-expression-recognition-challenge"
KAGGLE_FILE = "fer2013.tar.gz"
ICT_ARCHIVE = f"https://github.com/ICT-VGL/ICT-FaceKit/archive/{ict.COMMIT}.zip"
TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class RemoteFile:
    """One file on the network; `url` names a fixed commit, so its sha256 stays true.

    Without `sha256` whatever comes from there is taken.
    """

    name: str
    url: str
    sha256: str | None


FILES = {
    "ferplus": [
        RemoteFile("fer2013new.csv", f"{_FERPLUS}fer2013new.csv",
                   "9206e20d62f56475939f516847d61753e4860caeac9718b560129541b776fc2c"),
    ],
    "pose-lists": [
        RemoteFile("pose_30_ferplus_list.txt", f"{_LISTS}pose_30_ferplus_list.txt",
                   "f744e57c115834069ba0ad61c8f81ab578c91514274fa4c79a2ed83691457371"),
        RemoteFile("pose_45_ferplus_list.txt", f"{_LISTS}pose_45_ferplus_list.txt",
                   "89bc5b7bc7243102d05a5d939183ebabb673b1b0fc35f519976bb7686d7877e5"),
        RemoteFile("jianfei_occlusion_list.txt", f"{_LISTS}jianfei_occlusion_list.txt",
                   "b9d5c500fe762b1cda4c9fb537e4560fff9d01acabdcebedd57290a9b2f9d903"),
        RemoteFile("dlib_ferplus_val_center_crop_range_list.txt",
                   f"{_RAN}dlib_ferplus_val_center_crop_range_list.txt", None),
    ],
}


def fetch(files: list[RemoteFile], folder: Path) -> list[Path]:
    """Download to `folder` what is not there yet with the right sha256; return all paths.

    Raises `DataError` at the first file that cannot be had (off-line, refused, another content),
    and lists all that are still to be fetched by hand: from where, and to where.
    """
    for position, file in enumerate(files):
        try:
            _retrieve(file.url, folder / file.name, file.sha256 and f"sha256:{file.sha256}")
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError: hash
            by_hand = [f"\n  {rest.url}\n    to {folder / rest.name}"
                       + (f" (sha256 {rest.sha256})" if rest.sha256 else "")
                       for rest in files[position:]]
            raise DataError(f"could not download {file.name} ({_reason(error)}); "
                            "fetch by hand:" + "".join(by_hand)) from None
    return [folder / file.name for file in files]


def fetch_fer2013(folder: Path) -> Path:
    """Download FER-2013 from Kaggle with the user's own account to `folder`; return its path.

    Raises `DataError` with the way to do it by hand: no kagglehub, no account, rules not accepted.
    """
    target = folder / KAGGLE_FILE
    if target.exists():
        return target
    by_hand = (
        f"fetch it by hand: sign in at https://www.kaggle.com/c/{COMPETITION}/data, accept the "
        f"rules, download {KAGGLE_FILE} or icml_face_data.csv and put it in {folder} under that "
        f"name; `python -m data_prep fer2013 --source {folder} --out data/fer2013.npz` reads it"
    )
    try:
        import kagglehub
    except ImportError:
        raise DataError(f"kagglehub is missing: `pip install kagglehub`, or {by_hand}") from None
    try:
        fetched = Path(kagglehub.competition_download(COMPETITION, path=KAGGLE_FILE))
    except Exception as error:  # kagglehub's own errors share no base class
        raise DataError(f"no answer from Kaggle ({_reason(error)}); {by_hand}") from None
    with replacing(target) as aside:
        shutil.copyfile(fetched, aside)
    return target


def fetch_ictfacekit(folder: Path) -> Path:
    """Download the face model of PoseFaces to `folder`, unless it is there; return its path.

    GitHub packs an archive anew now and then, so its bytes have no lasting hash: the model in it
    is compared with the one that PoseFaces was rendered from.

    Raises `DataError` if it cannot be had, or is another model; nothing is left behind then.
    """
    target = folder / f"ICT-FaceKit-{ict.COMMIT}.zip"
    if target.exists():
        return target
    with replacing(target) as aside:
        try:
            _retrieve(ICT_ARCHIVE, aside, None)
        except (OSError, ValueError) as error:
            raise DataError(f"could not download {target.name} ({_reason(error)}); fetch by hand:"
                            f"\n  {ICT_ARCHIVE}\n    to {target}") from None
        if ict.load_model(aside).sha256 != ict.SHA256:
            raise DataError(f"{ICT_ARCHIVE}: not the model that PoseFaces was rendered from")
    return target


def _retrieve(url: str, path: Path, known_hash: str | None) -> None:
    import pooch  # here, so that sets can be prepared where it is not installed

    pooch.get_logger().setLevel(logging.WARNING)
    pooch.retrieve(url, known_hash, fname=path.name, path=path.parent,
                   downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT))


def _reason(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:120]}".rstrip(": ")


_SINGLE = {"fer2013": fetch_fer2013, "ictfacekit": fetch_ictfacekit}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Register `python -m data_prep download`."""
    parser = subparsers.add_parser(
        "download",
        help="fetch the votes, the lists, FER-2013 or the face model",
        description="Fetch source files: ferplus (votes), pose-lists (Pose-/Occlusion-FERPlus), "
                    "fer2013 (from Kaggle, with your own account), ictfacekit (the face model that "
                    "PoseFaces is rendered from).",
    )
    parser.add_argument("what", choices=[*FILES, *_SINGLE])
    parser.add_argument("--out", type=Path, default=Path("data/raw"), metavar="DIR",
                        help="folder to put it in (default: data/raw)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Fetch and print where it lies; raises `DataError` for the first file that cannot be had."""
    paths = ([_SINGLE[args.what](args.out)] if args.what in _SINGLE
             else fetch(FILES[args.what], args.out))
    for path in paths:
        print(path)
