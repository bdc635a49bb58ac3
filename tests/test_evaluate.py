"""Scores against scikit-learn and against their formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics

from lanmsff import LANMSFF
from lanmsff.augment import resize
from lanmsff.evaluate import Predictor, evaluate, predict, score, subsets
from lanmsff.intervals import bootstrap_over_groups

CPU = torch.device("cpu")
CLASSES = ["sad", "glad", "calm", "wild"]


def random_faces(n=60, occurring=3, seed=0):
    """Logits (N, 4) and labels (N,) of which only some classes occur."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32)), rng.integers(
        0, occurring, n
    )


# --- score


@pytest.mark.parametrize("occurring", [1, 2, 4])
def test_score_is_scikit_learn_s(occurring):
    logits, labels = random_faces(occurring=occurring)
    predicted = logits.argmax(1).numpy()
    found = score(logits, labels, CLASSES)

    assert found["n"] == 60 and found["correct"] == (predicted == labels).sum()
    assert found["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert found["macro_f1"] == pytest.approx(
        metrics.f1_score(labels, predicted, labels=range(occurring), average="macro")
    )
    assert found["loss"] == pytest.approx(
        metrics.log_loss(labels, logits.double().softmax(1), labels=range(4)), rel=1e-6
    )
    report = metrics.classification_report(
        labels, predicted, labels=range(4), target_names=CLASSES, output_dict=True, zero_division=0
    )
    assert list(found["per_class"]) == CLASSES
    for name, ours in found["per_class"].items():
        theirs = report[name]
        assert ours["n"] == theirs["support"]
        for ours_key, theirs_key in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score")):
            assert ours[ours_key] == pytest.approx(theirs[theirs_key])


def test_a_row_of_the_confusion_is_a_true_class():
    labels = np.array([0, 0, 0, 2])
    predicted = torch.tensor([0, 1, 1, 3])
    found = score(F.one_hot(predicted, 4).float(), labels, CLASSES)
    assert found["confusion"] == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert [found["per_class"][name]["n"] for name in CLASSES] == [3, 0, 1, 0]
    assert found["per_class"]["sad"]["recall"] == pytest.approx(1 / 3)
    assert found["per_class"]["sad"]["precision"] == 1


def test_macro_f1_is_over_the_classes_that_occur():
    """A class without faces has no F1; one that is never found has 0."""
    labels = np.array([0, 0, 1])
    all_right = F.one_hot(torch.tensor([0, 0, 1]), 4).float()
    assert score(all_right, labels, CLASSES)["macro_f1"] == 1
    one_lost = F.one_hot(torch.tensor([0, 0, 3]), 4).float()
    assert score(one_lost, labels, CLASSES)["macro_f1"] == pytest.approx(0.5)


# --- interval


# --- subsets


def test_subsets_of_a_marked_set(toy_faces):
    test = toy_faces().subset("test")
    parts = dict(subsets(test))
    sizes = {name: int(mask.sum()) for name, mask in parts.items()}
    assert sizes == {
        "all": 9,
        "all_without_leaked": 7,
        "pose30": 3,
        "pose30_without_leaked": 1,
    }
    assert parts["pose30_without_leaked"].nonzero()[0].tolist() == [2]
    assert (parts["all_without_leaked"] == (test.leaked_from == "")).all()


def test_subsets_of_a_set_without_marks(toy_faces):
    plain = replace(toy_faces().subset("test"), leaked_from=None, pose30=None)
    assert [name for name, _ in subsets(plain)] == ["all"]


def test_evaluate_scores_each_part_by_itself(toy_faces):
    test = toy_faces().subset("test")
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    found = evaluate(test, logits)
    assert list(found) == ["all", "all_without_leaked", "pose30", "pose30_without_leaked"]
    for name, mask in subsets(test):
        rows = np.flatnonzero(mask)
        assert found[name] == score(logits[rows], test.labels[rows], test.classes)


def test_where_people_are_known_there_is_an_interval_over_them(faces):
    logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    found, ends = evaluate(faces, logits), []
    correct = logits.argmax(1).numpy() == faces.labels
    for name, mask in subsets(faces):
        if name != "pose30_without_leaked":  # one face
            people = bootstrap_over_groups(correct[mask], faces.subject[mask])
            ends.append(found[name]["accuracy_over_people_95"])
            assert ends[-1] == pytest.approx(list(people))
    assert ends[0] != ends[1] != ends[2]
    assert "accuracy_over_people_95" not in found["pose30_without_leaked"]
    assert "accuracy_over_people_95" not in evaluate(replace(faces, subject=None), logits)["all"]


def test_evaluate_leaves_empty_parts_out(toy_faces):
    val = toy_faces().subset("val")  # nobody is marked there
    assert list(evaluate(val, torch.zeros(4, 3))) == ["all", "all_without_leaked"]


@pytest.mark.parametrize("shape", [(9, 4), (8, 3), (9,), (0,)])
def test_evaluate_refuses_logits_of_other_faces(shape, toy_faces):
    with pytest.raises(ValueError, match=r"logits have shape .* need \(9, 3\)"):
        evaluate(toy_faces().subset("test"), torch.zeros(shape))


# --- predict


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LANMSFF(3)


@pytest.mark.parametrize("shape", [(48, 48), (64, 64), (100, 80)])
def test_predict_is_the_model_on_resized_images(shape, model):
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    model.eval()
    with torch.no_grad():
        expected = model(resize(images)[:, None] / 255)
    logits = predict(model, images, CPU)
    assert logits.shape == (3, 3) and logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_the_model_as_it_is(training, model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8)
    model.train(training)
    first = predict(model, images, CPU)
    assert model.training is training
    assert torch.equal(predict(model, images, CPU), first)  # no dropout
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_predict_leaves_the_mode_also_after_an_error():
    model = torch.nn.Linear(3, 2)  # takes no images
    with pytest.raises(RuntimeError):
        predict(model, torch.zeros(2, 64, 64, dtype=torch.uint8), CPU)
    assert model.training


def test_predict_in_batches_keeps_the_order(model, monkeypatch):
    images = torch.randint(0, 256, (5, 64, 64), dtype=torch.uint8)
    whole = predict(model, images, CPU)
    monkeypatch.setattr("lanmsff.evaluate.BATCH_SIZE", 2)
    torch.testing.assert_close(predict(model, images, CPU), whole, rtol=1e-4, atol=1e-4)


def test_predict_in_bfloat16_is_close(model):
    images = torch.randint(0, 256, (4, 64, 64), dtype=torch.uint8)
    exact = predict(model, images, CPU).softmax(1)
    rough = predict(model, images, CPU, "bfloat16")
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.softmax(1), exact, rtol=0, atol=0.03)
    assert not torch.equal(rough.softmax(1), exact)


def test_predict_with_the_mirror_image(model):
    images = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    images[:, :, :20] = torch.tensor([0, 255, 100], dtype=torch.uint8)[:, None, None]
    plain, mirrored = (predict(model, faces, CPU) for faces in (images, images.flip(2)))
    both = predict(model, images, CPU, mirror=True)
    torch.testing.assert_close(both, (plain + mirrored) / 2, rtol=1e-5, atol=1e-6)
    assert (plain - mirrored).abs().max() > 1e-4
    turned_round = predict(model, images.flip(2), CPU, mirror=True)
    torch.testing.assert_close(turned_round, both, rtol=1e-5, atol=1e-6)


def test_a_predictor_can_be_asked_again(model, monkeypatch):
    images = torch.randint(256, (4, 64, 64), dtype=torch.uint8)
    ask = Predictor(model, CPU)
    monkeypatch.setattr("lanmsff.evaluate.folded", None)  # batch norm is not folded again
    assert torch.equal(ask(images[:1]), ask(images[:1]))
    torch.testing.assert_close(torch.cat([ask(images[:1]), ask(images[1:])]), ask(images),
                               rtol=1e-4, atol=1e-4)  # fmt: skip


def test_predict_takes_arrays_and_names_of_devices_but_bytes_alone(model):
    images = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    assert torch.equal(predict(model, images.numpy(), "cpu"), predict(model, images, CPU))
    for other in (images / 255, images.int(), images[:, :48, :48].float()):
        with pytest.raises(TypeError, match=f"faces must be uint8, 0 to 255, got {other.dtype}"):
            predict(model, other, CPU)


def test_predict_no_faces(model):
    assert len(predict(model, torch.zeros(0, 64, 64, dtype=torch.uint8), CPU)) == 0
