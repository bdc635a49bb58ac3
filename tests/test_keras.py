"""Reading the authors' weights: any numbering, and nothing but their network."""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from lanmsff import LANMSFF
from lanmsff.keras import load_keras_weights

GOLDEN = Path(__file__).parent / "golden"
SEVEN = GOLDEN / "keras7.weights.h5"


@pytest.fixture
def copy(tmp_path):
    """A copy of the golden file, to be spoilt."""
    return Path(shutil.copy(SEVEN, tmp_path / "copy.weights.h5"))


def refused(path, model=None, error=ValueError) -> str:
    """The message of the refusal; the model must be unchanged to the bit."""
    model = model or LANMSFF()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error) as caught:
        load_keras_weights(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("classes", [7, 8])
def test_every_tensor_is_read(classes):
    model = LANMSFF(classes)
    state = model.state_dict()
    own = {n for n in state if n.endswith(("order", "num_batches_tracked"))}  # not in the file
    for name in state.keys() - own:
        state[name].fill_(float("nan"))
    assert load_keras_weights(model, GOLDEN / f"keras{classes}.weights.h5") is model
    assert all(tensor.isfinite().all() for tensor in state.values())

    with h5py.File(GOLDEN / f"keras{classes}.weights.h5") as file:
        arrays = []
        file.visititems(
            lambda _, found: arrays.append(found[()]) if isinstance(found, h5py.Dataset) else None
        )
    values = np.sort(np.concatenate([array.ravel() for array in arrays]))
    ours = torch.cat([state[n].ravel() for n in state.keys() - own]).sort().values
    np.testing.assert_array_equal(ours, values)  # each value once: nothing read twice or left out


def test_a_float64_model_takes_float32_weights():
    model = load_keras_weights(LANMSFF().double(), SEVEN)
    expected = load_keras_weights(LANMSFF(), SEVEN)
    assert torch.equal(model.head.weight, expected.head.weight.double())


@pytest.mark.parametrize("offset", [1, 5, 93])
def test_numbers_start_anywhere_and_sort_as_numbers(offset, tmp_path):
    """conv2d_9 comes before conv2d_10, whatever stands first in the alphabet."""
    renumbered = tmp_path / "renumbered.weights.h5"
    with h5py.File(SEVEN) as source, h5py.File(renumbered, "w") as target:
        layers = target.create_group("layers")
        for name in source["layers"]:
            kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups()
            new = f"{kind}_{int(number or 0) + offset}"
            source.copy(source["layers"][name], layers, name=new)
        names = [name for name in layers if name.startswith("conv2d_")]
    if offset == 5:
        assert names.index("conv2d_10") < names.index("conv2d_9")  # the file's own order

    expected = load_keras_weights(LANMSFF(), SEVEN).state_dict()
    state = load_keras_weights(LANMSFF(), renumbered).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_gaps_in_the_numbering_do_not_matter(copy):
    with h5py.File(copy, "a") as file:
        file.move("layers/conv2d_17", "layers/conv2d_400")
        file.move("layers/dense_4", "layers/dense_17")
    expected = load_keras_weights(LANMSFF(), SEVEN).state_dict()
    state = load_keras_weights(LANMSFF(), copy).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


@pytest.mark.parametrize("classes, file", [(8, "keras7"), (7, "keras8"), (2, "keras7")])
def test_another_number_of_classes(classes, file):
    message = refused(GOLDEN / f"{file}.weights.h5", LANMSFF(classes))
    assert "dense_4" in message and "another number of classes" in message
    assert f"(156, {classes})" in message and f"(156, {file[-1]})" in message


@pytest.mark.parametrize(
    "switches, message",
    [
        ({"attention": "none"}, "layers of class conv2d"),
        ({"selection": False}, r"\(300, 7\)"),
        ({"multi_scale": False}, r"\(84, 7\)"),
    ],
)
def test_an_ablated_model(switches, message):
    assert re.search(message, refused(SEVEN, LANMSFF(**switches)))


def test_a_missing_file(tmp_path):
    assert "no such file" in refused(tmp_path / "none.weights.h5", error=FileNotFoundError)
    refused(tmp_path, error=FileNotFoundError)  # a folder


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04" + bytes(99), bytes(4096)])
def test_not_hdf5(content, tmp_path):
    path = tmp_path / "text.weights.h5"
    path.write_bytes(content)
    assert "not a Keras weights file" in refused(path)


@pytest.mark.parametrize("size", [100, 100_000, 1_600_000])
def test_a_truncated_file(size, copy):
    copy.write_bytes(copy.read_bytes()[:size])
    assert "not a Keras weights file" in refused(copy)


def test_a_damaged_file_is_read_or_refused(copy):
    """Wherever a stretch of zeros strikes the file's inner tables."""
    whole = copy.read_bytes()
    outcomes = set()
    for start in range(0, 60_000, 4_000):
        copy.write_bytes(whole[:start] + bytes(500) + whole[start + 500 :])
        try:
            load_keras_weights(LANMSFF(), copy)
            outcomes.add("read")  # only values were struck
        except ValueError as error:
            assert str(copy) in str(error)
            outcomes.add("refused")
    assert "refused" in outcomes


def foreign(path, layers):
    with h5py.File(path, "w") as file:
        for name, arrays in layers.items():
            for k, array in enumerate(arrays):
                file[f"layers/{name}/vars/{k}"] = array
    return path


@pytest.mark.parametrize(
    "layers",
    [
        {"dense": [np.zeros((4, 2)), np.zeros(2)]},
        {"conv2d": [np.zeros((3, 3, 1, 8)), np.zeros(8)], "dense": [np.zeros((8, 7)), np.zeros(7)]},
        {"embedding": [np.zeros((10, 4))]},
        {"conv2d": ["text"]},
    ],
    ids=lambda layers: ", ".join(layers),
)
def test_another_network(layers, tmp_path):
    message = refused(foreign(tmp_path / "other.weights.h5", layers))
    assert "not LANMSFF's weights" in message


@pytest.mark.parametrize(
    "fill",
    [
        lambda file: None,
        lambda file: file.create_group("model_weights/conv2d"),  # Keras 2
        lambda file: file.create_dataset("layers", data=[1, 2]),
        lambda file: file.create_dataset("layers/conv2d", data=[1, 2]),
        lambda file: file.create_dataset("layers/conv2d/vars", data=[1, 2]),
        lambda file: file.create_dataset("layers/conv2d/vars/kernel", data=[1, 2]),
        lambda file: file.create_group("layers/conv2d/vars/0"),
    ],
    ids=["empty", "Keras 2", "layers", "layer", "vars", "named variable", "deeper"],
)
def test_hdf5_of_another_make(fill, tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        fill(file)
    assert "not a Keras weights file" in refused(path)


def test_a_further_layer(copy):
    with h5py.File(copy, "a") as file:
        file.create_dataset("layers/embedding/vars/0", data=np.zeros((3, 4), np.float32))
    assert "embedding" in refused(copy)


@pytest.mark.parametrize(
    "gone, named",
    [
        ("layers/dense_4/vars/1", "dense_4"),
        ("layers/conv2d_17/vars/0", "conv2d_17"),
        ("layers/batch_normalization_19/vars/3", "batch_normalization_19"),
        ("layers/separable_conv2d_5/vars", "separable_conv2d"),
        ("layers/conv2d_transpose_3", "conv2d_transpose"),
    ],
)
def test_a_missing_variable(gone, named, copy):
    """The last layers of their class: all others would fit already."""
    with h5py.File(copy, "a") as file:
        del file[gone]
    assert named in refused(copy)


def test_a_transposed_kernel(copy):
    with h5py.File(copy, "a") as file:
        kernel = file["layers/dense_4/vars/0"][()]
        del file["layers/dense_4/vars/0"]
        file["layers/dense_4/vars/0"] = kernel.T
    assert "(7, 156)" in refused(copy)


def test_two_layers_in_the_wrong_order(copy):
    with h5py.File(copy, "a") as file:
        file.move("layers/conv2d_1", "layers/kept")
        file.move("layers/conv2d", "layers/conv2d_1")
        file.move("layers/kept", "layers/conv2d")
    assert "conv2d has shapes" in refused(copy)
