"""What the network looks at: attention, class activation maps, and where on the face they lie."""

from lanmsff.explain.attention import Attention, attention
from lanmsff.explain.cam import LAYERS, METHODS, cam
from lanmsff.explain.maps import enlarge, normalise, spread
from lanmsff.explain.regions import pointing_game, region_lift, region_shares
from lanmsff.intervals import Means, means_by_yaw

__all__ = [
    "LAYERS",
    "METHODS",
    "Attention",
    "Means",
    "attention",
    "cam",
    "enlarge",
    "means_by_yaw",
    "normalise",
    "pointing_game",
    "region_lift",
    "region_shares",
    "spread",
]
