"""What the peers cost, computed again from networks that are built as their code builds them."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from lanmsff.cost import parameter_count

RESULTS = Path(__file__).parents[1] / "results"
PEERS = json.loads((RESULTS / "peers.json").read_text("utf8"))["peers"]


def small_resnet18():
    """LetheSec: one channel, a first convolution of 3x3 without stride, no pooling after it."""
    network = models.resnet18(num_classes=7)
    network.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


class RAN(nn.Module):
    """RAN and its re-run, for one crop: a trunk, and the dense layers of its attention over crops."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        width = trunk.fc.in_features
        trunk.fc = nn.Identity()
        self.trunk, self.alpha = trunk, nn.Linear(width, 1)
        self.beta, self.fc = nn.Linear(2 * width, 1), nn.Linear(2 * width, 8)

    def forward(self, x):
        features = self.trunk(x)
        both = torch.cat([features, features * self.alpha(features)], 1)
        return self.fc(both * self.beta(both))


def vgg19():
    """WuJie1010: the convolutions of VGG19 with batch norm, one dense layer."""
    return nn.Sequential(models.vgg19_bn().features, nn.Flatten(), nn.Linear(512, 7))


def vgg8():
    """usef-kh: four stages of two convolutions, three dense layers."""
    layers, width = [], 1
    for wide in (64, 128, 256, 512):
        for _ in range(2):
            layers += [nn.Conv2d(width, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]
            width = wide
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 4096), nn.ReLU(),
                         nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 7))  # fmt: skip


class Residual(nn.Module):
    """Of mini-Xception: two separable convolutions and pooling beside a 1x1 of stride 2."""

    def __init__(self, width: int, wide: int):
        super().__init__()
        self.short = nn.Sequential(nn.Conv2d(width, wide, 1, 2, bias=False), nn.BatchNorm2d(wide))
        layers = []
        for first in (width, wide):
            layers += [
                nn.Conv2d(first, first, 3, padding=1, groups=first, bias=False),
                nn.Conv2d(first, wide, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
            ]
        self.long = nn.Sequential(*layers[:-1], nn.MaxPool2d(3, 2, padding=1))

    def forward(self, x):
        return self.long(x) + self.short(x)


def mini_xception():
    layers = []
    for width in (1, 8):
        layers += [nn.Conv2d(width, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [Residual(a, b) for a, b in ((8, 16), (16, 32), (32, 64), (64, 128))]
    return nn.Sequential(*layers, nn.Conv2d(128, 7, 3, padding=1))


BUILT = {
    "ResNet18, RAN": lambda: RAN(models.resnet18()),
    "ResNet34, RAN": lambda: RAN(models.resnet34()),
    "ResNet50, RAN": lambda: RAN(models.resnet50()),
    "ResNet18 for small images": small_resnet18,
    "VGG19": vgg19,
    "VGG with 8 convolutions": vgg8,
    "mini-Xception": mini_xception,
}


@pytest.mark.parametrize("peer", [p for p in PEERS if p["parameters"]], ids=lambda p: p["source"])
def test_parameters_and_multiply_accumulates_are_those_of_the_network(peer):
    with torch.device("meta"):
        network = BUILT[peer["network"]]().eval()
        assert parameter_count(network) == peer["parameters"]
        if peer["multiply_accumulates"] is None:
            return
        channels, side = next(network.parameters()).shape[1], peer["side"]
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, channels, side, side))
    assert counter.get_total_flops() // 2 == peer["multiply_accumulates"]


def test_accuracies_are_those_of_their_counts():
    trainings = PEERS + [peer["trained_again"] for peer in PEERS if "trained_again" in peer]
    counted = [part for one in trainings for part in [one, *one.get("parts", {}).values()]
               if part.get("correct")]  # fmt: skip
    assert len(counted) >= 20
    for part in counted:
        assert part["accuracy"] == pytest.approx(part["correct"] / part["n"], abs=1e-4)


def test_each_peer_has_its_source_and_what_it_was_trained_on():
    for peer in PEERS:
        assert peer["source"].startswith("https://") and peer["data"] in ("FER-2013", "FERPlus")
        assert 0 < peer["accuracy"] < 1 and peer["pretrained"] in (True, False, None)
        assert peer["chosen_on_test"] in (True, False, None)
        if peer["chosen_on_test"]:
            assert peer["note"].count(".py)"), "the file that shows it"
