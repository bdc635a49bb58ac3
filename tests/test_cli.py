"""The command line, end to end on a made-up set, and every way to use it wrongly."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lanmsff import LANMSFF
from lanmsff.__main__ import main
from lanmsff.console import call
from lanmsff.data import replacing
from lanmsff.evaluate import evaluate, predict
from lanmsff.report import by_yaw
from lanmsff.results import package_version, read_record
from lanmsff.weights import load_weights, save_weights

ROOT = Path(__file__).resolve().parents[1]
CPU = ["--device", "cpu", "--precision", "float32"]


def python_m_lanmsff(*words, cwd):
    """Run it as a user does. Gives (status, stdout, stderr)."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "lanmsff", *map(str, words)],
        cwd=cwd, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def trained(toy_faces, tmp_path_factory):
    """A folder with `toy.npz` and the run `run` of one epoch, made from the command line."""
    folder = tmp_path_factory.mktemp("cli")
    toy_faces().save(folder / "toy.npz")
    words = "train --data toy.npz --recipe paper --out run --epochs 1 --seed 3".split()
    status, output, progress = python_m_lanmsff(*words, *CPU, cwd=folder)
    assert status == 0, progress
    return folder, output, progress


# --- train


def test_train(trained):
    folder, output, progress = trained
    record = read_record(folder / "run" / "record.json")
    assert record["epochs"] == 1 and record["finished"] == "1 epochs done"
    assert record["asked"]["seed"] == 3 and record["asked"]["dataset"] == "toy"
    assert record["environment"]["device"].startswith("CPU")
    assert record["environment"]["processor"]
    assert torch.__version__.startswith(record["environment"]["torch"])
    best = record["best"]
    assert f"best epoch 1: validation accuracy {best['val_accuracy']:.2%}" in output
    for part in ("epoch 1/1", "16/16", "images/s", "loss=", "acc=", "validation loss"):
        assert part in progress + output, part
    assert load_weights(folder / "run").info["seed"] == 3


def test_train_what_is_done(trained, capsys):
    folder, *_ = trained
    words = ["train", "--data", folder / "toy.npz", "--out", folder / "run", "--epochs", 1]
    assert main([*map(str, words), "--seed", "3", "--resume", *CPU]) == 0
    assert "nothing left to do (1 epochs done)" in capsys.readouterr().out


# --- evaluate


def test_evaluate(trained, toy_faces, tmp_path):
    folder, *_ = trained
    out = tmp_path / "results" / "toy.json"
    words = ["--weights", "run", "--data", "toy.npz", "--split", "test", "--json", out]
    status, output, progress = python_m_lanmsff("evaluate", *words, *CPU, cwd=folder)
    assert status == 0, progress
    record = read_record(out)
    assert [path.name for path in out.parent.iterdir()] == ["toy.json"]

    test = toy_faces().subset("test")
    model = load_weights(folder / "run").model
    logits = predict(model, torch.from_numpy(test.images), torch.device("cpu"))
    expected = json.loads(json.dumps(evaluate(test, logits)))
    for name, part in record["scores"].items():
        assert part.pop("loss") == pytest.approx(expected[name].pop("loss"), rel=1e-5)
    assert record["scores"] == expected

    assert record["weights"]["file"] == "best.safetensors"
    assert record["weights"]["epoch"] == 1 and record["weights"]["recipe"] == "paper"
    assert record["data"]["split"] == "test" and record["data"]["sources"] == {"nothing": "00"}
    assert record["environment"]["precision"] == "float32"
    lines = {line.split()[0]: line for line in output.splitlines()}
    for name, part in record["scores"].items():
        low, high = part["accuracy_95"]
        for figure in (f"{part['accuracy']:.2%}", f"{low:.2%}", f"{high:.2%}",
                       f"macro-F1 {part['macro_f1']:.4f}", f"n {part['n']}"):  # fmt: skip
            assert figure in lines[name]


def test_evaluate_a_file_on_another_split(trained, capsys):
    folder, *_ = trained
    words = ["evaluate", "--weights", folder / "run" / "last.safetensors"]
    words += ["--data", folder / "toy.npz", "--split", "val", *CPU]
    assert main([*map(str, words)]) == 0
    assert capsys.readouterr().out.split()[-1] == "4"  # faces
    assert {path.name for path in folder.iterdir()} == {"toy.npz", "run"}  # no JSON unless asked


def test_evaluate_says_which_part_is_of_one_person(trained, toy_faces, tmp_path, capsys):
    folder, *_ = trained
    test = toy_faces().subset("test")
    people = np.where(test.columns["pose30"], "ann", "bob")
    replace(test, subject=people).save(tmp_path / "people.npz")
    words = ["evaluate", "--weights", folder / "run", "--data", tmp_path / "people.npz", *CPU]
    assert main([*map(str, words)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading == "95 % intervals over people"
    of_one = [line.split()[0] for line in lines if "[none: one person]" in line]
    assert of_one == ["pose30", "pose30_without_leaked"]
    assert lines[0].split()[0] == "all" and "%, " in lines[0]


# --- help and words that are no command


@pytest.mark.parametrize(
    "command, flags",
    [
        ((), ("train", "evaluate")),
        (("train",), ("--data", "--recipe", "--out", "--epochs", "--seed", "--device", "--resume",
                      "--start", "--precision", "paper", "short")),
        (("evaluate",), ("--weights", "--data", "--split", "--json", "--device", "--precision")),
    ],
)  # fmt: skip
def test_help(command, flags, capsys):
    with pytest.raises(SystemExit) as leaving:
        main([*command, "--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert all(flag in text for flag in flags)


TRAIN = ["train", "--data", "toy.npz", "--out", "new"]


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--out", "new"], "--data"),
        ([*TRAIN, "--recipe", "none"], "invalid choice: 'none'"),
        ([*TRAIN, "--epochs", "0"], "--epochs: '0' is not a whole number above 0"),
        ([*TRAIN, "--epochs", "many"], "--epochs: 'many' is not a whole number above 0"),
        ([*TRAIN, "--seed", "x"], "--seed: invalid int value: 'x'"),
        ([*TRAIN, "--max-minutes", "nan"], "--max-minutes: 'nan' is not a number from 0 on"),
        (["grid", "kdef-paper", "--max-minutes", "-1"], "'-1' is not a number from 0 on"),
        (["bench", "--seconds", "soon"], "--seconds: 'soon' is not a number from 0 on"),
        (["grid", "kdef-paper", "--without", "sense"], "--without: invalid choice: 'sense'"),
        (["evaluate", "--data", "toy.npz"], "--weights"),
        (["evaluate", "--weights", "run", "--data", "toy.npz", "--split", "all"], "'all'"),
    ],
    ids=" ".join,
)
def test_wrong_words(words, message, capsys):
    with pytest.raises(SystemExit) as leaving:
        main(words)
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


# --- wrong files


def content(folder):
    return {p.relative_to(folder): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


@pytest.fixture
def refused(trained, toy_faces, tmp_path, monkeypatch, capsys):
    """Run a command that must fail where there are good and bad files; gives its one line."""
    folder, *_ = trained
    for name in ("toy.npz", "run"):
        (tmp_path / name).symlink_to(folder / name)
    toy_faces(val=0).save(tmp_path / "no_val.npz")
    toy_faces(test=0).save(tmp_path / "no_test.npz")
    toy_faces(seed=5).save(tmp_path / "others.npz")
    faces = toy_faces()
    classes = {"classes": ["glad", "sad", "calm"]}
    replace(faces, meta=faces.meta | classes).save(tmp_path / "reordered.npz")
    whole = (folder / "toy.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a_file").write_text("text")
    (tmp_path / "empty_run").mkdir()
    torch.save({}, tmp_path / "weights.pt")
    save_weights(LANMSFF(2), tmp_path / "two.safetensors", ["yes", "no"], {})
    monkeypatch.chdir(tmp_path)
    before, before_run = content(tmp_path), content(folder)

    def run(command: str) -> str:
        status = main(command.split())
        printed = capsys.readouterr()
        assert status == 2
        assert printed.out == ""
        line, end = printed.err.split("\n", 1)
        assert end == "" and line.startswith("error: ")
        assert content(tmp_path) == before and content(folder) == before_run
        return line

    return run


@pytest.mark.parametrize(
    "command, parts",
    [
        ("train --data none.npz --out new", ["none.npz: No such file"]),
        ("train --data empty_run --out new", ["empty_run"]),
        ("train --data a_file --out new", ["a_file: not an .npz archive"]),
        ("train --data cut.npz --out new", ["cut.npz: not a whole prepared set"]),
        ("train --data no_val.npz --out new", ["no faces in split 'val'"]),
        ("train --data toy.npz --out run", ["run: holds a run; go on with it (--resume"]),
        ("train --data toy.npz --out run --resume --seed 4 --epochs 2 --precision float32",
         ["run: this run has seed 3, asked is 4", "name another folder"]),
        ("train --data others.npz --out run --resume --seed 3 --precision float32",
         ["run: this run has data_sha256"]),
        ("train --data toy.npz --out run --resume --seed 3 --recipe short --precision float32",
         ["recipe paper, asked is short"]),
        ("train --data toy.npz --out a_file", ["a_file: is a file; choose another folder"]),
        ("train --data toy.npz --out a_file/run", ["a_file/run:", "a_file is a file; choose"]),
        ("train --data toy.npz --out new --seed -1", ["seed must lie in 0 ..", "got -1"]),
        ("train --data toy.npz --out new --device abacus", ["'abacus' cannot be used", "'auto'"]),
        ("train --data toy.npz --out new --device cuda:99", ["'cuda:99' cannot be used"]),
        ("train --data toy.npz --out new --device meta", ["'meta' cannot be used", "only cpu"]),
        ("train --data toy.npz --out new --device mps", ["'mps' cannot be used (only cpu and cuda"]),
        ("train --data toy.npz --out new --recipe short --set soft_labels=true",
         ["soft_labels: the data has no votes"]),
        ("evaluate --weights run/checkpoint.safetensors --data toy.npz",
         ["checkpoint.safetensors: a checkpoint of a run, whose folder is to be named"]),
        ("train --data toy.npz --out new --start none", ["none: no such file, run or shipped"]),
        ("train --data reordered.npz --out new --start run",
         ["weights for the classes sad, glad, calm; the data has glad, sad, calm"]),
        ("evaluate --weights none --data toy.npz", ["none: no such file, run or shipped weights"]),
        ("evaluate --weights empty_run --data toy.npz", ["empty_run", "no weights yet"]),
        ("evaluate --weights weights.pt --data toy.npz", ["weights.pt: not a safetensors file"]),
        ("evaluate --weights two.safetensors --data toy.npz",
         ["two.safetensors: weights for the classes yes, no; the data has sad, glad, calm"]),
        ("evaluate --weights run --data reordered.npz",
         ["weights for the classes sad, glad, calm; the data has glad, sad, calm"]),
        ("evaluate --weights run --data none.npz", ["none.npz: No such file"]),
        ("evaluate --weights run --data cut.npz", ["cut.npz: not a whole prepared set"]),
        ("evaluate --weights run --data no_test.npz", ["no_test.npz: no faces in split 'test'"]),
        ("evaluate --weights run --data toy.npz --device abacus", ["'abacus' cannot be used"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_files_are_named_in_one_line(command, parts, refused):
    if command.startswith("train") and "--device" not in command:
        command += " --device cpu"
    line = refused(command)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    "json_path, message",
    [("a_file/x", "a_file is a file"), ("taken", "is a folder; name a file")],
)
def test_a_record_that_cannot_be_written_is_refused_before_the_work(
    json_path, message, trained, tmp_path, capsys
):
    folder, *_ = trained
    (tmp_path / "a_file").touch()
    (tmp_path / "taken").mkdir()
    before = content(tmp_path)
    words = ["evaluate", "--weights", folder / "run", "--data", folder / "toy.npz"]
    assert main([*map(str, words), "--json", str(tmp_path / json_path), *CPU]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {tmp_path / json_path}: ") and message in printed.err
    assert content(tmp_path) == before


def test_a_user_sees_one_line_and_status_2(trained):
    folder, *_ = trained
    status, output, error = python_m_lanmsff(
        "train", "--data", "none.npz", "--out", "new", cwd=folder
    )
    assert (status, output) == (2, "")
    assert error == "error: none.npz: No such file or directory\n"
    assert not (folder / "new").exists()


def test_what_a_user_may_not_have_is_not_asked_for():
    """Sets are prepared, networks trained and scored where only what these use is installed."""
    absent = ("pooch", "kagglehub", "embreex", "dask", "distributed", "timm", "pytorch_grad_cam",
              "onnx", "onnxruntime", "papermill", "jupytext")  # fmt: skip
    code = (f"import sys; sys.modules.update(dict.fromkeys({absent})); import data_prep.__main__, "
            "lanmsff.__main__, lanmsff.bench, lanmsff.gather, lanmsff.grid, lanmsff.jobs")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_letters_that_stdout_does_not_have(trained, tmp_path):
    folder, *_ = trained
    words = ["evaluate", "--weights", folder / "run", "--data", folder / "toy.npz", *CPU, "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONIOENCODING", "ascii")
        status, output, progress = python_m_lanmsff(*words, "caf\u00e9.json", cwd=tmp_path)
    assert status == 0, progress
    assert output.endswith("caf\\xe9.json\n") and (tmp_path / "caf\u00e9.json").exists()


def test_sigterm_leaves_nothing_half_written(tmp_path, capsys):
    def write(_):
        with replacing(tmp_path / "x") as aside:
            aside.touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    handler = signal.getsignal(signal.SIGTERM)
    assert call(argparse.Namespace(run=write)) == 130
    assert capsys.readouterr().err == "stopped; no file is half written\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == handler


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == package_version() + "\n"


def test_ctrl_c(monkeypatch, capsys, trained):
    folder, *_ = trained

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lanmsff.commands.train.FaceSet.load", stop)
    assert main(["train", "--data", str(folder / "toy.npz"), "--out", "new"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"name": "\xff"}'])
def test_a_record_that_is_none(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match="x.json: not a JSON record"):
        read_record(tmp_path / "x.json")


def test_evaluate_looks_at_mirror_images_as_the_weights_recipe_does(toy_faces, tmp_path):
    faces = toy_faces()
    faces = replace(faces, yaw=np.where(np.arange(len(faces)) % 3, 45, -45).astype(np.float32))
    faces.save(tmp_path / "toy.npz")
    torch.manual_seed(0)
    model = LANMSFF(3)
    with torch.no_grad():
        model(torch.rand(8, 1, 64, 64))
        model.head.weight *= 400
    origin = {"settings": {"test_mirror": True}}
    save_weights(model, tmp_path / "w.safetensors", faces.classes, origin)
    words = ["evaluate", "--weights", tmp_path / "w.safetensors", "--data", tmp_path / "toy.npz"]
    test, losses = faces.subset("test"), []
    for flags, mirror in (([], True), (["--no-mirror"], False)):
        assert main([*map(str, words), "--json", str(tmp_path / "x.json"), *flags, *CPU]) == 0
        record = read_record(tmp_path / "x.json")
        assert record["mirror"] is mirror
        logits = predict(model, test.images, "cpu", mirror=mirror)
        losses.append(record["scores"]["all"]["loss"])
        assert losses[-1] == pytest.approx(evaluate(test, logits)["all"]["loss"], rel=1e-5)
        right = logits.argmax(1).numpy() == test.labels
        assert record["yaw"] == json.loads(json.dumps(by_yaw(test, right)))
        assert record["data"]["sha256"] == faces.sha256  # of the whole set
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
