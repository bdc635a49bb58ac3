"""`predict` on a reader's photographs: what it writes, and what it does about bad ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lanmsff import LANMSFF
from lanmsff.__main__ import main
from lanmsff.commands.predict import _free_name
from lanmsff.evaluate import predict
from lanmsff.weights import load_weights, save_weights

CLASSES = ["sad", "glad", "disgusted"]


def patches(count: int, seed: int) -> torch.Tensor:
    """Pictures of 8x8 squares of random greys, uint8 (count, 80, 80)."""
    greys = np.random.default_rng(seed).integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return torch.from_numpy(greys.repeat(10, axis=1).repeat(10, axis=2))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights that calls different pictures by different names."""
    torch.manual_seed(0)
    model = LANMSFF(3)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(8, 1, 64, 64))
        model.head.weight *= 20
        logits = predict(model, patches(16, seed=1), torch.device("cpu"))
        model.head.bias -= logits.mean(dim=0)
    path = tmp_path_factory.mktemp("predict") / "w.safetensors"
    save_weights(model, path, CLASSES, {"dataset": "toy", "settings": {"test_mirror": True}})
    return path


@pytest.fixture
def album(tmp_path, monkeypatch):
    """A folder to work in with four different pictures, and their grey values (4, 80, 80)."""
    monkeypatch.chdir(tmp_path)
    shades = patches(4, seed=0).numpy()
    names = ["me.png", "holiday/me.png", "holiday/Zoë im Schnee 雪.webp", "me.bmp"]
    for name, picture in zip(names, shades):
        Path(name).parent.mkdir(exist_ok=True)
        options = {"lossless": True} if name.endswith("webp") else {}
        Image.fromarray(picture).convert("RGB").save(name, **options)
    return names, shades


@pytest.fixture
def run(weights, capsys):
    """`run(photo, ..., "--box", ...)` gives (status, stdout, stderr); out is the folder "out"."""

    def run(*words):
        status = main([*map(str, ("predict", *words, "--weights", weights, "--out", "out"))])
        return status, *capsys.readouterr()

    return run


def test_photographs(album, run, weights):
    names, shades = album
    status, output, errors = run(*names)
    assert (status, errors) == (0, "")
    record = json.loads(Path("out/predictions.json").read_text())

    # the same as the same pictures in a prepared set
    loaded = load_weights(weights)
    logits = predict(loaded.model, torch.from_numpy(shades), torch.device("cpu"), mirror=True)
    once = predict(loaded.model, torch.from_numpy(shades), torch.device("cpu"))
    expected = logits.softmax(dim=1)
    assert not torch.allclose(expected, once.softmax(dim=1))
    found = torch.tensor([[p["probabilities"][c] for c in CLASSES] for p in record["photos"]])
    torch.testing.assert_close(found, expected)
    best = [CLASSES[k] for k in expected.argmax(dim=1)]
    assert [photo["expression"] for photo in record["photos"]] == best
    assert len(set(best)) > 1

    assert [photo["file"] for photo in record["photos"]] == names
    assert all(photo["square"] == [0, 0, 80, 80] for photo in record["photos"])
    assert record["failed"] == []
    assert record["weights"]["file"] == "w.safetensors" and record["weights"]["dataset"] == "toy"
    assert record["environment"]["device"].startswith("CPU")

    head, *lines, last = output.splitlines()
    assert head.split() == CLASSES and last == os.path.join("out", "predictions.json")
    for line, name, row, word in zip(lines, names, expected.tolist(), best, strict=True):
        assert line.startswith(name)
        assert line.removeprefix(name).split() == [word, *(f"{p:.1%}" for p in row)]
    assert len({len(line) for line in (head, *lines)}) == 1  # columns in line


def test_a_figure_for_each_photograph(album, run):
    names, _ = album
    assert run(*names)[0] == 0
    record = json.loads(Path("out/predictions.json").read_text())
    figures = [photo["figure"] for photo in record["photos"]]
    stems = ["me", "me-2", "Zoë im Schnee 雪", "me-3"]
    assert figures == [f"{stem}.maps.png" for stem in stems]
    assert {path.name for path in Path("out").iterdir()} == {"predictions.json", *figures}
    drawn = [np.asarray(Image.open(f"out/{name}").convert("RGB")) for name in figures]
    for k, picture in enumerate(drawn):
        assert picture.shape[1] > 4 * picture.shape[0]  # face, two attention maps, CAM, control
        assert (picture.std(axis=2) > 10).mean() > 0.1  # maps are colored
        assert not any(picture.shape == p.shape and (picture == p).all() for p in drawn[:k])


def test_maps_are_of_the_expression_that_is_said(album, run, monkeypatch):
    asked = []

    def watched(model, images, targets):
        asked.extend(targets)
        return np.zeros((len(images), 64, 64), np.float32)

    monkeypatch.setattr("lanmsff.commands.predict.kinds_of",
                        lambda model: {"map": watched, "exact map": None})  # fmt: skip
    assert run(*album[0])[0] == 0
    photos = json.loads(Path("out/predictions.json").read_text())["photos"]
    assert [CLASSES[k] for k in asked] == [photo["expression"] for photo in photos]


def test_a_network_without_attention_shows_no_attention(album, run, tmp_path, capsys):
    names, _ = album
    assert run(names[0])[0] == 0
    with_attention = Image.open("out/me.maps.png").size
    save_weights(LANMSFF(3, attention="none"), tmp_path / "plain.safetensors", CLASSES, {})
    words = ["predict", names[0], "--weights", "plain.safetensors", "--out", "plain"]
    assert main(words) == 0
    assert Image.open("plain/me.maps.png").size[0] < 0.8 * with_attention[0]


def test_the_box_cuts_the_face_out(album, run):
    _, shades = album
    scene = np.full((200, 400), 128, np.uint8)
    scene[100:180, 300:380] = shades[0]
    Image.fromarray(scene).save("scene.png")
    assert run("me.png")[0] == 0
    alone = json.loads(Path("out/predictions.json").read_text())["photos"][0]
    status, *_ = run("scene.png", "--box", "0.75", "0.5", "0.95", "0.9")
    (inside,) = json.loads(Path("out/predictions.json").read_text())["photos"]
    assert status == 0 and inside["square"] == [300, 100, 380, 180]
    assert inside["probabilities"] == alone["probabilities"]
    assert run("scene.png")[0] == 0
    (middle,) = json.loads(Path("out/predictions.json").read_text())["photos"]
    assert middle["square"] == [100, 0, 300, 200]
    assert middle["probabilities"] != alone["probabilities"]


def test_the_rest_goes_on(album, run):
    names, _ = album
    Path("empty.jpg").touch()
    Path("text.png").write_text("text")
    Path("cut.png").write_bytes(Path("me.png").read_bytes()[:60])
    bad = {
        "none.jpg": "No such file or directory",
        "empty.jpg": "empty file",
        "holiday": "Is a directory",
        "text.png": "no picture in one of the formats",
        "cut.png": "corrupt picture",
    }
    status, output, errors = run(names[0], *bad, names[1])
    assert status == 1
    record = json.loads(Path("out/predictions.json").read_text())
    assert [photo["file"] for photo in record["photos"]] == names[:2]
    assert [photo["file"] for photo in record["failed"]] == list(bad)
    for line, (name, reason) in zip(errors.splitlines(), bad.items(), strict=True):
        assert line.startswith(f"error: {name}: ") and reason in line
    for photo, reason in zip(record["failed"], bad.values()):
        assert photo["reason"].startswith(reason)
    assert len(output.splitlines()) == 4


def test_nothing_could_be_read(album, run):
    status, output, errors = run("none.jpg", "holiday")
    assert (status, output) == (2, "")
    assert errors.splitlines() == [
        "error: none.jpg: No such file or directory", "error: holiday: Is a directory",
    ]  # fmt: skip
    assert not Path("out").exists()


def test_names_that_cannot_be_printed(album, run):
    """Line breaks, and bytes that are no letters, as names from old discs have."""
    for name in (b"two\nlines.png", b"\xff\x1b[31m.png"):
        Path(os.fsdecode(name)).write_bytes(Path("me.png").read_bytes())
    names = [os.fsdecode(name) for name in (b"two\nlines.png", b"\xff\x1b[31m.png")]
    status, output, errors = run(*names, "no\nfile")
    assert status == 1
    output.encode()  # could be printed anywhere
    assert output.isascii() and "\x1b" not in output
    assert len(output.splitlines()) == 4 and errors.count("\n") == 1
    record = json.loads(Path("out/predictions.json").read_text())
    assert [photo["file"] for photo in record["photos"]] == names
    assert all(Path("out", photo["figure"]).is_file() for photo in record["photos"])


@pytest.mark.parametrize(
    "box", ["0 0 1 1.1", "-0.1 0 1 1", "0.5 0 0.5 1", "0 0 640 480", "nan 0 1 1"]
)
def test_a_box_outside_of_the_picture(box, album, run):
    names, _ = album
    status, output, errors = run(*names, "--box", *box.split())
    assert (status, output) == (2, "")
    assert errors.startswith(f"error: box {box}: expected left, top, right, bottom as fractions")
    assert errors.count("\n") == 1 and not Path("out").exists()


@pytest.mark.parametrize("words, message", [
    (["--box", "0", "0", "1"], "--box: expected 4 arguments"),
    (["--box", "0", "0", "1", "all"], "--box: invalid float value: 'all'"),
])  # fmt: skip
def test_half_a_box(words, message, album, run, capsys):
    with pytest.raises(SystemExit) as leaving:
        run("me.png", *words)
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(album, run):
    Path("out").write_text("a file")
    status, output, errors = run("me.png")
    assert (status, output) == (2, "")
    assert errors == "error: out: is a file; choose another folder\n"
    assert Path("out").read_text() == "a file"


def test_weights_that_are_none(album, capsys):
    assert main(["predict", "me.png", "--weights", "none", "--out", "out"]) == 2
    assert capsys.readouterr().err.startswith("error: none: no such file, run or shipped weights")
    assert not Path("out").exists()


def test_long_names_leave_room_for_what_is_put_around_them():
    """A name of 255 bytes is as long as file systems take; letters are not cut apart."""
    taken = set()
    names = [_free_name(stem, taken) for stem in 2 * ["\u9854" * 83]]
    assert len(set(names)) == 2 and all(len(f".{name}.1234567.part".encode()) < 255 for name in names)
    assert set(names[0].removesuffix(".maps.png")) == {"\u9854"}


def test_figures_of_names_that_differ_by_case_only():
    taken = set()
    names = [_free_name(stem, taken) for stem in ("a", "A", "a-2", "a")]
    assert len({name.casefold() for name in names}) == 4
    assert names[0] == "a.maps.png"
