"""The exported file says and gives what PyTorch does, and nothing half done is left behind."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lanmsff import LANMSFF
from lanmsff.__main__ import main
from lanmsff.export import export_onnx, open_session
from lanmsff.weights import Weights, load_weights, save_weights

onnx = pytest.importorskip("onnx", reason="needs onnx (pip install 'lanmsff[export]')")

# Everything that the network is made of; checks of values would need comparisons and reductions.
OPERATORS = {
    "Add", "Concat", "Conv", "ConvTranspose", "Div", "Gather", "Gemm", "MaxPool", "Min", "Mul",
    "ReduceMean", "Relu", "Sigmoid", "Slice", "Split", "Sub", "Unsqueeze",
}  # fmt: skip
NETWORKS = {
    "7 classes": {"num_classes": 7},
    "8 classes, permutation": {"num_classes": 8, "mixing": "permutation", "permutation_seed": 5},
}


def lively(**config) -> LANMSFF:
    """A network whose logits are of the size of a trained one's, with real batch statistics."""
    torch.manual_seed(0)
    model = LANMSFF(**config)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(8, 1, 64, 64))
        model.head.weight *= 20
        model.head.bias.uniform_(-2, 2)
    return model


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request, tmp_path_factory):
    """A network's weights as read from disk, and the ONNX file that `export` made of them."""
    folder = tmp_path_factory.mktemp("export")
    config = NETWORKS[request.param]
    classes = [f"class {k}" for k in range(config["num_classes"])][::-1]
    origin = {"recipe": "paper", "dataset": "toy", "data_sha256": "00", "val_accuracy": 0.5}
    save_weights(lively(**config), folder / "w.safetensors", classes, origin)
    words = [sys.executable, "-m", "lanmsff", "export"]
    words += ["--weights", folder / "w.safetensors", "--out", folder / "new" / "w.onnx"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    return load_weights(folder / "w.safetensors"), folder / "new" / "w.onnx", done


def test_the_command_says_what_it_wrote_and_no_more(exported):
    weights, path, done = exported
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == f"{path}: {', '.join(weights.classes)}"
    assert float(second.removeprefix("largest difference of a logit from PyTorch: ")) < 1e-5
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_equal_to_pytorch(exported, batch):
    weights, path, _ = exported
    images = torch.rand(batch, 1, 64, 64)
    with torch.inference_mode():
        expected = weights.model(images)
    assert expected.std() > 0.1
    (logits,) = open_session(path).run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-5, atol=1e-5)


def test_classes_scaling_and_origin_travel_along(exported):
    weights, path, _ = exported
    session = open_session(path)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == weights.classes
    assert json.loads(about["image"]) == weights.info["image"]
    assert json.loads(about["config"]) == weights.model.config
    assert (about["recipe"], about["dataset"], about["val_accuracy"]) == ("paper", "toy", "0.5")
    assert set(about) == {*weights.info, "note"}
    for part in ("toy", "terms of use", "MIT License", "Not for decisions about people"):
        assert part in about["note"]
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(float)")
    assert images.shape == ["N", 1, 64, 64] and logits.shape == ["N", len(weights.classes)]


def test_a_clean_graph(exported):
    weights, path, _ = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} == OPERATORS
    # parameters only: batch normalisation is gone, and nothing was doubled
    size = sum(tensor.numel() for tensor in weights.model.parameters()) * 4
    assert size < path.stat().st_size < 1.05 * size
    assert str(Path(__file__).parents[1]).encode() not in path.read_bytes()
    # what the network would refuse is not looked at: the file has no opinion on values
    (logits,) = open_session(path).run(None, {"images": np.full((1, 1, 64, 64), 2, np.float32)})
    assert np.isfinite(logits).all()


def test_threads(exported):
    _, path, _ = exported
    options = open_session(path, threads=1).get_session_options()
    assert options.intra_op_num_threads == 1
    assert open_session(path).get_session_options().intra_op_num_threads == torch.get_num_threads()


# --- what goes wrong


@pytest.fixture
def weights():
    return Weights(LANMSFF(2).eval(), {"classes": ["yes", "no"], "image": {"side": 64}}, "w", "00")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("lanmsff.export.find_spec", lambda name: None if name == package else name)
    with pytest.raises(ValueError, match=rf"needs {package}; .*pip install 'lanmsff\[export\]'"):
        export_onnx(weights, tmp_path / "w.onnx")
    if package == "onnxruntime":
        with pytest.raises(ValueError, match=f"needs {package}"):
            open_session(tmp_path / "w.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_kept(exported, tmp_path, monkeypatch):
    weights, path, _ = exported
    monkeypatch.setattr("lanmsff.export._to_onnx", lambda _: onnx.load(path))
    other = copy.deepcopy(weights.model)
    with torch.no_grad():
        other.head.bias[0] += 1e-3
    (tmp_path / "w.onnx").write_text("the old file")
    with pytest.raises(ValueError, match="w.onnx: not written: .* differ from PyTorch's by"):
        export_onnx(Weights(other, weights.info, "w", "00"), tmp_path / "w.onnx")
    assert (tmp_path / "w.onnx").read_text() == "the old file"
    assert len(list(tmp_path.iterdir())) == 1
    export_onnx(weights, tmp_path / "w.onnx")
    assert (tmp_path / "w.onnx").stat().st_size == path.stat().st_size


def test_a_network_whose_logits_are_no_numbers_is_not_kept(exported, tmp_path):
    weights, _, _ = exported
    broken = copy.deepcopy(weights.model)
    broken.head.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="not written: .* by nan"):
        export_onnx(Weights(broken, weights.info, "w", ""), tmp_path / "w.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_no_onnx_file(content, tmp_path):
    path = tmp_path / "w.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="w.onnx: not an ONNX file that can be run"):
        open_session(path)


@pytest.mark.parametrize("out, message", [
    ("w.pt", "w.pt: the name must end in .onnx"),
    ("a_file/w.onnx", "a_file"),
])  # fmt: skip
def test_a_place_that_cannot_be_written(out, message, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lanmsff.export._to_onnx", lambda _: pytest.fail("nothing to export for"))
    save_weights(weights.model, tmp_path / "w.safetensors", weights.classes, {})
    (tmp_path / "a_file").touch()
    before = sorted(tmp_path.iterdir())
    words = ["export", "--weights", tmp_path / "w.safetensors", "--out", tmp_path / out]
    assert main([*map(str, words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and message in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
