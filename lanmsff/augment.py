"""Faces as batches of tensors: the network's size, and the authors' augmentation.

Their code turns every training face into four before training starts (64x64 throughout, bilinear):

    0  the face itself
    1  its mirror image
    2  turned by a whole number of degrees in [-15, 15], black where nothing is, enlarged to 72x72,
       the central 64x64 cut out
    3  enlarged to 72x72, 64x64 cut out at an offset in {0, ..., 8} each way

`OfflineVariants` does as they do: four images a face in an epoch, drawn once before training. The
pictures are computed when a batch asks for them, the same in every epoch, and never stored.
`OnlineVariants` shows each face once in an epoch, as one of the four with fresh draws. One
difference to the authors remains: turning and enlarging are one bilinear step here, two there.
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


class Variants:
    """Faces and the four ways to show them, computed on the device of the faces.

    Args:
        faces: uint8 (N, 64, 64), kept as they are.
    """

    def __init__(self, faces: Tensor):
        self.faces = faces

    def _draw(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """For `n` faces: angles in radians (n,), and cuts (n, 2) as x, y off the centre.

        Cuts are in units of half a side, those of `affine_grid`.
        """
        degrees = torch.randint(-MAX_DEGREES, MAX_DEGREES + 1, (n,), generator=generator)
        offset = torch.randint(0, ENLARGED - SIDE + 1, (n, 2), generator=generator)
        cut = (offset - (ENLARGED - SIDE) / 2) * 2 / ENLARGED
        return torch.deg2rad(degrees.float()).to(self.faces.device), cut.to(self.faces.device)

    def _show(self, face: Tensor, variant: Tensor, radians: Tensor, cut: Tensor) -> Tensor:
        """Variants of faces (B,): float32 (B, 1, 64, 64) in [0, 1]."""
        turned, moved = variant == TURN, variant == CROP
        angle = torch.where(turned, radians, 0.0)
        zoom = torch.where(turned | moved, SIDE / ENLARGED, 1.0)
        mirror = torch.where(variant == MIRROR, -1.0, 1.0)
        shift = torch.where(moved[:, None], cut, 0.0)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        # where each output point is read in the face: (B, 2, 3), in units of half a side
        rows = [mirror * cos, -sin, shift[:, 0], sin, cos, shift[:, 1]]
        affine = torch.stack(rows, dim=1).reshape(-1, 2, 3)

        images = to_float(self.faces[face])
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        # Only a turned face has an outside, which is black; elsewhere the edge pixel is repeated.
        edge = 1 - 1 / SIDE
        grid = torch.where(turned[:, None, None, None], grid, grid.clamp(-edge, edge))
        return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)


class OfflineVariants(Variants):
    """All four images of every face, drawn once: item 4 i + v is variant v of face i.

    Args:
        faces: uint8 (N, 64, 64).
        seed: of the draws, one angle and one cut for every face.
    """

    def __init__(self, faces: Tensor, seed: int):
        super().__init__(faces)
        generator = torch.Generator().manual_seed(seed)
        self.radians, self.cut = self._draw(len(faces), generator)

    def __len__(self) -> int:
        return VARIANTS * len(self.faces)

    def batch(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """The images of `items`, int64 (B,): float32 (B, 1, 64, 64) in [0, 1], and their faces."""
        face = items // VARIANTS
        images = self._show(face, items % VARIANTS, self.radians[face], self.cut[face])
        return images, face


class OnlineVariants(Variants):
    """Every face once, as one of its four images, with new draws whenever it is asked for.

    The draws come from PyTorch's global generator on the CPU.
    """

    def __len__(self) -> int:
        return len(self.faces)

    def batch(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """As `OfflineVariants.batch`; item i is face i."""
        variant = torch.randint(0, VARIANTS, (len(items),)).to(items.device)
        return self._show(items, variant, *self._draw(len(items))), items
