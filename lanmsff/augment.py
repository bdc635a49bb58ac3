"""Faces as batches of tensors: the network's size, and the authors' augmentation.

Their code turns every training face into four before training starts (64x64 throughout, bilinear):

    0  the face itself
    1  its mirror image
    2  turned by a whole number of degrees in [-15, 15], black where nothing is, enlarged to 72x72,
       the central 64x64 cut out
    3  enlarged to 72x72, 64x64 cut out at an offset in {0, ..., 8} each way

Here the draws are made before training as well, one for every face, and the pictures are computed
when a batch asks for them: the same four images in every epoch, without storing them. One
difference remains: turning and enlarging are one bilinear step here, two steps there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 64
VARIANTS = 4
MIRROR, TURN, CROP = 1, 2, 3
MAX_DEGREES = 15
ENLARGED = 72
_RESIZE_AT_ONCE = 4096  # faces; bounds the float copy to 64 MiB


def resize(images: Tensor) -> Tensor:
    """Faces at the network's size: uint8 (N, H, W) -> uint8 (N, 64, 64), bilinear, rounded."""
    if images.shape[1:] == (SIDE, SIDE):
        return images
    resized = [
        F.interpolate(part[:, None].float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        for part in images.split(_RESIZE_AT_ONCE)
    ]
    return torch.cat([part[:, 0].round().clamp(0, 255).to(torch.uint8) for part in resized])


def to_float(images: Tensor) -> Tensor:
    """What the network takes: uint8 (N, 64, 64) -> float32 (N, 1, 64, 64) in [0, 1]."""
    return images[:, None].float() / 255


class PaperVariants:
    """The authors' four images of every face, computed on the device of the faces.

    Args:
        faces: uint8 (N, 64, 64), kept as they are.
        seed: of the draws: one angle and one offset for every face.

    `len()` is 4 N; item 4 i + v is variant v of face i.
    """

    def __init__(self, faces: Tensor, seed: int):
        generator = torch.Generator().manual_seed(seed)
        n = len(faces)
        degrees = torch.randint(-MAX_DEGREES, MAX_DEGREES + 1, (n,), generator=generator)
        offset = torch.randint(0, ENLARGED - SIDE + 1, (n, 2), generator=generator)  # x, y
        self.faces = faces
        self.radians = torch.deg2rad(degrees.float()).to(faces.device)
        # a cut off the centre, in units of half a side (those of `affine_grid`)
        centre = (ENLARGED - SIDE) / 2
        self.shift = ((offset - centre) * 2 / ENLARGED).to(faces.device)

    def __len__(self) -> int:
        return VARIANTS * len(self.faces)

    def batch(self, items: Tensor) -> Tensor:
        """The images of `items`, int64 (B,) on the device: float32 (B, 1, 64, 64) in [0, 1]."""
        face, variant = items // VARIANTS, items % VARIANTS
        images = to_float(self.faces[face])
        grid = F.affine_grid(self._affine(face, variant), list(images.shape), align_corners=False)
        # Only a turned face has an outside, which is black; elsewhere the edge pixel is repeated.
        edge = 1 - 1 / SIDE
        inside = grid.clamp(-edge, edge)
        grid = torch.where((variant == TURN)[:, None, None, None], grid, inside)
        return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)

    def _affine(self, face: Tensor, variant: Tensor) -> Tensor:
        """(B, 2, 3): where each output point is read in the face, in units of half a side."""
        turned, cut = variant == TURN, variant == CROP
        angle = torch.where(turned, self.radians[face], 0.0)
        zoom = torch.where(turned | cut, SIDE / ENLARGED, 1.0)
        mirror = torch.where(variant == MIRROR, -1.0, 1.0)
        shift = torch.where(cut[:, None], self.shift[face], 0.0)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        rows = [mirror * cos, -sin, shift[:, 0], sin, cos, shift[:, 1]]
        return torch.stack(rows, dim=1).reshape(-1, 2, 3)
