"""Downloads: from a server on this machine, without a network, and without an account."""

import hashlib
import socket
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from data_prep import download
from data_prep.__main__ import main
from data_prep.download import RemoteFile, fetch


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A web server on this machine, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield SimpleNamespace(folder=folder, url=f"http://127.0.0.1:{httpd.server_port}")
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def remote(url, content):
    return RemoteFile("list.txt", url, hashlib.sha256(content).hexdigest())


def test_a_file_is_fetched_once(server, tmp_path, monkeypatch, capsys):
    (server.folder / "list.txt").write_bytes(b"faces\n")
    file = remote(f"{server.url}/list.txt", b"faces\n")
    monkeypatch.setitem(download.FILES, "pose-lists", [file])
    out = tmp_path / "data" / "raw"
    assert main(["download", "pose-lists", "--out", str(out)]) == 0
    assert (out / "list.txt").read_bytes() == b"faces\n"
    assert capsys.readouterr().out.splitlines() == [str(out / "list.txt")]
    (server.folder / "list.txt").unlink()
    assert fetch([file], out) == [out / "list.txt"]


def test_another_content_is_refused(server, tmp_path, monkeypatch, capsys):
    (server.folder / "list.txt").write_bytes(b"something else\n")
    file = remote(f"{server.url}/list.txt", b"faces\n")
    monkeypatch.setitem(download.FILES, "ferplus", [file])
    assert main(["download", "ferplus", "--out", str(tmp_path / "raw")]) == 2
    assert by_hand_is_told(capsys.readouterr().err, file, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize("reachable", [True, False])
def test_a_failed_download_says_what_to_do(reachable, server, tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    file = remote(f"{server.url if reachable else closed}/list.txt", b"faces\n")
    monkeypatch.setitem(download.FILES, "ferplus", [file])
    assert main(["download", "ferplus", "--out", str(tmp_path / "raw")]) == 2
    assert by_hand_is_told(capsys.readouterr().err, file, tmp_path / "raw")


def by_hand_is_told(error, file, folder):
    told = error[error.index("error: could not download") :]
    return all(part in told for part in (file.url, file.sha256, str(folder / file.name)))


def test_every_file_that_is_left_is_listed(server, tmp_path, monkeypatch, capsys):
    (server.folder / "a.txt").write_bytes(b"faces\n")
    digest = hashlib.sha256(b"faces\n").hexdigest()
    names = ("a.txt", "b.txt", "c.txt")
    files = [RemoteFile(name, f"{server.url}/{name}", digest) for name in names]
    monkeypatch.setitem(download.FILES, "pose-lists", files)
    assert main(["download", "pose-lists", "--out", str(tmp_path / "raw")]) == 2
    error = capsys.readouterr().err
    assert [file.url in error for file in files] == [False, True, True]
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["a.txt"]


def test_a_file_without_a_known_hash_is_taken_as_it_is(server, tmp_path, monkeypatch, capsys):
    (server.folder / "a.txt").write_bytes(b"0/fer0032220 6\n")
    files = [RemoteFile(name, f"{server.url}/{name}", None) for name in ("a.txt", "b.txt")]
    monkeypatch.setitem(download.FILES, "pose-lists", files)
    assert main(["download", "pose-lists", "--out", str(tmp_path)]) == 2
    assert (tmp_path / "a.txt").read_bytes() == b"0/fer0032220 6\n"
    error = capsys.readouterr().err
    assert files[1].url in error and "sha256" not in error


def test_the_folder_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert main(["download", "ferplus", "--out", str(tmp_path / "file" / "raw")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_hashes_are_those_of_the_files(shared):
    known = [file for files in download.FILES.values() for file in files if file.sha256]
    assert len(known) == 4
    for file in known:
        content = shared(f"data/fer2013/{file.name}").read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256


def test_fer2013_without_kagglehub(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert main(["download", "fer2013", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "kagglehub is missing" in error and f"put it in {tmp_path}" in error


@pytest.mark.parametrize("name", ["fer2013.tar.gz", "icml_face_data.csv"])
def test_fer2013_put_where_it_is_told_is_read(name, standin, pack, tmp_path, monkeypatch, capsys):
    raw = tmp_path / "raw"
    raw.mkdir()
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    assert main(["download", "fer2013", "--out", str(raw)]) == 2
    told = capsys.readouterr().err
    assert name in told and f"put it in {raw} under that name" in told
    made = tmp_path / "made"
    fetched = (standin.icml(made) if name.endswith(".csv")
               else pack(standin.fer2013(made).parent, name))
    fetched.rename(raw / name)
    command = told.partition("`python -m data_prep ")[2].partition("`")[0].split()
    monkeypatch.chdir(tmp_path)
    assert main(command) == 0 and (tmp_path / "data" / "fer2013.npz").exists()


def test_fer2013_without_an_account(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("403 Client Error.\n\nYou don't have permission")

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(competition_download=refuse))
    assert main(["download", "fer2013", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "403 Client Error" in error and "accept the rules" in error
    assert download.COMPETITION in error and f"put it in {tmp_path}" in error
    assert list(tmp_path.iterdir()) == []


def test_fer2013_with_an_account(tmp_path, monkeypatch):
    cached = tmp_path / "cache.bin"
    cached.write_bytes(b"faces")
    asked = []

    def answer(competition, path):
        asked.append((competition, path))
        return str(cached)

    monkeypatch.setitem(sys.modules, "kagglehub", SimpleNamespace(competition_download=answer))
    for _ in range(2):  # the second time it is there
        path = download.fetch_fer2013(tmp_path / "raw")
        assert path.read_bytes() == b"faces"
    assert asked == [(download.COMPETITION, "fer2013.tar.gz")]


def test_the_face_model_is_fetched_once_and_compared(shared, server, tmp_path, monkeypatch, capsys):
    model = shared("data/ictfacekit/ICT-FaceKit-da5f95a.zip").read_bytes()
    (server.folder / "model.zip").write_bytes(model)
    monkeypatch.setattr(download, "ICT_ARCHIVE", f"{server.url}/model.zip")
    target = tmp_path / "raw" / "ICT-FaceKit-da5f95a.zip"
    for _ in range(2):  # the second time it is there
        assert main(["download", "ictfacekit", "--out", str(tmp_path / "raw")]) == 0
        assert capsys.readouterr().out.splitlines() == [str(target)]
        (server.folder / "model.zip").unlink(missing_ok=True)
    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == model


def test_another_face_model_is_refused(shared, server, tmp_path, monkeypatch, capsys):
    (server.folder / "model.zip").write_bytes(
        shared("data/ictfacekit/ICT-FaceKit-da5f95a.zip").read_bytes()
    )
    monkeypatch.setattr(download, "ICT_ARCHIVE", f"{server.url}/model.zip")
    monkeypatch.setattr(download.ict, "SHA256", "0" * 64)
    assert main(["download", "ictfacekit", "--out", str(tmp_path / "raw")]) == 2
    assert "not the model that PoseFaces was rendered from" in capsys.readouterr().err
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize("content", [None, b"no zip"])
def test_a_face_model_that_cannot_be_had(content, server, tmp_path, monkeypatch, capsys):
    if content:
        (server.folder / "model.zip").write_bytes(content)
    monkeypatch.setattr(download, "ICT_ARCHIVE", f"{server.url}/model.zip")
    assert main(["download", "ictfacekit", "--out", str(tmp_path / "raw")]) == 2
    error = capsys.readouterr().err
    assert ("is this the ICT-FaceKit archive?" if content else f"{server.url}/model.zip") in error
    assert list((tmp_path / "raw").iterdir()) == []


def test_ctrl_c_says_what_is_true_also_after_the_first_file(server, tmp_path, monkeypatch, capsys):
    (server.folder / "a.txt").write_bytes(b"faces\n")
    files = [RemoteFile(name, f"{server.url}/{name}", None) for name in ("a.txt", "b.txt")]
    monkeypatch.setitem(download.FILES, "pose-lists", files)
    retrieve = download._retrieve

    def stop_at_the_second(url, *rest):
        if url.endswith("b.txt"):
            raise KeyboardInterrupt
        retrieve(url, *rest)

    monkeypatch.setattr(download, "_retrieve", stop_at_the_second)
    assert main(["download", "pose-lists", "--out", str(tmp_path / "raw")]) == 130
    assert capsys.readouterr().err.endswith("stopped; no file is half written\n")
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["a.txt"]
