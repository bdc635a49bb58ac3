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

`Views` is the augmentation of our own recipe: each face once in an epoch, changed a little in
every way at once.

All draws of an epoch are made when it starts, from (seed, epoch) alone, on the CPU, and then lie
beside the faces, always in the same memory: a resumed epoch sees the same images, a GPU the same
as a CPU, and no batch waits for a draw or for a copy.
"""

import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lanmsff.recipes import Recipe

SIDE = 64
VARIANTS = 4
MIRROR, TURN, CROP = 1, 2, 3
MAX_DEGREES = 15
ENLARGED = 72
_RESIZE_AT_ONCE = 4096  # faces; bounds the float copy to 64 MiB


def resize(images: Tensor) -> Tensor:
    """Faces at the network's size: uint8 (N, H, W) -> uint8 (N, 64, 64), bilinear, rounded.

    Raises `TypeError` for other numbers than bytes.
    """
    _refuse_floats(images)
    if images.shape[1:] == (SIDE, SIDE):
        return images
    resized = [
        F.interpolate(part[:, None].float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        for part in images.split(_RESIZE_AT_ONCE)
    ]
    return torch.cat([part[:, 0].round().clamp(0, 255).to(torch.uint8) for part in resized])


def to_float(images: Tensor) -> Tensor:
    """What the network takes: uint8 (N, 64, 64) -> float32 (N, 1, 64, 64) in [0, 1].

    Raises `TypeError` for other numbers than bytes.
    """
    _refuse_floats(images)
    return images[:, None].float() / 255


def _refuse_floats(images: Tensor) -> None:
    """They would be divided by 255 once more, and every face be nearly black."""
    if images.dtype != torch.uint8:
        raise TypeError(f"faces must be uint8, 0 to 255, got {images.dtype}")


class Images(Protocol):
    """The training images of a set of N faces on the device: `len`, and batches by number."""

    faces: Tensor  # uint8 (N, 64, 64)

    def __len__(self) -> int:
        """The number of images in an epoch."""
        ...

    def start_epoch(self, epoch: int) -> None:
        """Make the draws of epoch `epoch`, counted from 0; a new set has those of epoch 0."""

    def batch(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """The images of `items`, int64 (B,): float32 (B, 1, 64, 64) in [0, 1], and their faces."""
        ...


def draws_generator(seed: int, epoch: int) -> torch.Generator:
    """Of all draws of one epoch; its stream has nothing in common with that of another epoch."""
    mixed = int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
    return torch.Generator().manual_seed(mixed)


class Variants:
    """Faces and the four ways to show them, computed on the device of the faces.

    Args:
        faces: uint8 (N, 64, 64), kept as they are.
    """

    def __init__(self, faces: Tensor):
        self.faces = faces
        n, device = len(faces), faces.device
        self.radians = torch.zeros(n, device=device)
        self.cut = torch.zeros(n, 2, device=device)  # x, y off the centre, in half sides

    def _draw(self, generator: torch.Generator) -> None:
        """Draw an angle and a cut for every face, into the tensors that are there."""
        n = len(self.faces)
        degrees = torch.randint(-MAX_DEGREES, MAX_DEGREES + 1, (n,), generator=generator)
        offset = torch.randint(0, ENLARGED - SIDE + 1, (n, 2), generator=generator)
        self.radians.copy_(torch.deg2rad(degrees.float()))
        self.cut.copy_((offset - (ENLARGED - SIDE) / 2) * 2 / ENLARGED)

    def _show(self, face: Tensor, variant: Tensor) -> Tensor:
        """Variants (B,) of faces (B,): float32 (B, 1, 64, 64) in [0, 1]."""
        turned, moved = variant == TURN, variant == CROP
        # masked_fill takes a number as it is; torch.where would copy it to a GPU in every batch
        angle = self.radians[face].masked_fill(~turned, 0.0)
        ones = torch.ones_like(angle)
        zoom = ones.masked_fill(turned | moved, SIDE / ENLARGED)
        mirror = ones.masked_fill(variant == MIRROR, -1.0)
        shift = self.cut[face].masked_fill(~moved[:, None], 0.0)
        cos, sin = zoom * torch.cos(angle), zoom * torch.sin(angle)
        affine = _affine(mirror * cos, -sin, shift[:, 0], sin, cos, shift[:, 1])

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
        self._draw(torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return VARIANTS * len(self.faces)

    def start_epoch(self, epoch: int) -> None:
        """Every epoch has the same images."""

    def batch(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """See `Images`."""
        face = items // VARIANTS
        return self._show(face, items % VARIANTS), face


class OnlineVariants(Variants):
    """Every face once, as one of its four images, drawn anew in every epoch; item i is face i."""

    def __init__(self, faces: Tensor, seed: int):
        super().__init__(faces)
        self.seed = seed
        self.variant = torch.zeros(len(faces), dtype=torch.int64, device=faces.device)
        self.start_epoch(0)

    def __len__(self) -> int:
        return len(self.faces)

    def start_epoch(self, epoch: int) -> None:
        """See `Images`."""
        generator = draws_generator(self.seed, epoch)
        self.variant.copy_(torch.randint(0, VARIANTS, (len(self),), generator=generator))
        self._draw(generator)

    def batch(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """See `Images`."""
        return self._show(items, self.variant[items]), items


class Views:
    """Every face once, mirrored, turned, zoomed, moved, relit and covered at random.

    Turning, zooming and moving are one bilinear step; outside of a face its edge is repeated. All
    draws are uniform, and each strength of 0 leaves the face as it is in that respect.

    Args:
        faces: uint8 (N, 64, 64).
        seed: of the draws, which are new in every epoch.
        mirror: probability of the mirror image.
        degrees: of turning, up to so many either way.
        zoom: in [0, 1), a face is up to this share larger or smaller.
        shift: up to this share of the side, each way.
        light: contrast changes by up to this share; brightness by up to half of it, of full white.
        erase: probability that a rectangle with sides of `COVERED` is filled with the face's mean
            (Zhong et al., "Random erasing data augmentation", AAAI 2020).
    """

    COVERED = (0.15, 0.45)  # of the face's side

    def __init__(
        self,
        faces: Tensor,
        seed: int,
        *,
        mirror: float,
        degrees: float,
        zoom: float,
        shift: float,
        light: float,
        erase: float,
    ):
        self.faces, self.seed = faces, seed
        self.mirror, self.degrees, self.zoom, self.shift = mirror, degrees, zoom, shift
        self.light, self.erase = light, erase
        self.draws = torch.zeros(len(faces), 12, device=faces.device)
        self.start_epoch(0)

    def __len__(self) -> int:
        return len(self.faces)

    def start_epoch(self, epoch: int) -> None:
        """See `Images`."""
        self.draws.copy_(torch.rand(self.draws.shape, generator=draws_generator(self.seed, epoch)))

    def batch(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """See `Images`; item i is face i."""
        share = self.draws[items].unbind(1)  # uniform in [0, 1), twelve for a face
        mirrored, turned, zoomed, right, down, contrast, brightness, covered, *place = share
        images = self._move(to_float(self.faces[items]), mirrored, turned, zoomed, right, down)
        images = self._relight(images, contrast, brightness)
        return self._cover(images, covered, *place).clamp(0, 1), items

    def _move(
        self, images: Tensor, mirrored: Tensor, turned: Tensor, zoomed: Tensor, right: Tensor,
        down: Tensor,
    ) -> Tensor:  # fmt: skip
        angle = _signed(turned) * math.radians(self.degrees)
        scale = 1 / (1 + self.zoom * _signed(zoomed))
        mirror = torch.ones_like(mirrored).masked_fill(mirrored < self.mirror, -1.0)
        cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
        x, y = (2 * self.shift * _signed(way) for way in (right, down))  # in half sides
        affine = _affine(mirror * cos, -sin, x, mirror * sin, cos, y)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def _relight(self, images: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
        mean = images.mean(dim=(2, 3), keepdim=True)
        factor = 1 + self.light * _signed(contrast)[:, None, None, None]
        added = self.light / 2 * _signed(brightness)[:, None, None, None]
        return (images - mean) * factor + mean + added

    def _cover(
        self, images: Tensor, covered: Tensor, width: Tensor, height: Tensor, x: Tensor, y: Tensor
    ) -> Tensor:
        least, most = self.COVERED
        pixels = (torch.arange(SIDE, device=images.device) + 0.5) / SIDE

        def inside(length: Tensor, place: Tensor) -> Tensor:
            """Rows or columns of the rectangle, which lies wholly in the face: bool (B, 64)."""
            length = least + (most - least) * length[:, None]
            start = (1 - length) * place[:, None]
            return (pixels >= start) & (pixels < start + length)

        rectangle = inside(height, y)[:, None, :, None] & inside(width, x)[:, None, None, :]
        rectangle = rectangle & (covered < self.erase)[:, None, None, None]
        return torch.where(rectangle, images.mean(dim=(2, 3), keepdim=True), images)


def make_images(faces: Tensor, recipe: Recipe, seed: int) -> Images:
    """The training images that the recipe makes of faces, uint8 (N, 64, 64)."""
    if recipe.augmentation == "offline":
        return OfflineVariants(faces, seed)
    if recipe.augmentation == "online":
        return OnlineVariants(faces, seed)
    return Views(
        faces, seed, mirror=recipe.mirror, degrees=recipe.degrees, zoom=recipe.zoom,
        shift=recipe.shift, light=recipe.light, erase=recipe.erase,
    )  # fmt: skip


def _signed(share: Tensor) -> Tensor:
    """Uniform in [0, 1) -> uniform in [-1, 1)."""
    return 2 * share - 1


def _affine(*rows: Tensor) -> Tensor:
    """Where each output point is read in the face: (B, 2, 3), in units of half a side."""
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)
