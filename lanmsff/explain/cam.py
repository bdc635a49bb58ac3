"""Class activation maps: those of pytorch-grad-cam, and the exact ones that this head allows.

The head of LANMSFF is linear in pooled maps. With the maps m of scale k (those that PWFS selects
in blocks 1 to 3, those of block 4 as they are) and the weights w and bias b of class t,

    logit_t = b_t + sum_k sum_c w_tkc 1/(H_k W_k) sum_p m_kcp

so what pixel p of scale k adds to the logit is  sum_c w_tkc m_kcp / (H_k W_k) : nothing is
approximated, and the pixels of all scales add up to the logit without its bias. This is CAM
(Zhou et al., CVPR 2016) for every scale that is fused.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr

import numpy as np
import torch
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from lanmsff.explain.maps import BATCH_SIZE, enlarge, in_batches, spread
from lanmsff.model import LANMSFF, evaluating

LAYERS = ("block1", "block2", "block3", "block4")
_GRADIENT = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
}
METHODS = (*_GRADIENT, "ablationcam", "exact")
Target = None | int | Sequence[int] | np.ndarray | Tensor


def cam(
    model: LANMSFF,
    images: Tensor,
    target: Target = None,
    layer: str = "block4",
    method: str = "gradcam",
    batch_size: int = BATCH_SIZE,
    full_size: bool = True,
) -> Tensor:
    """Return, for every image, a map of what speaks for a class.

    The network is left as it came: modes, gradients (`.grad`) and hooks. It runs in evaluation
    mode, where dropout does nothing, on the device where it is.

    Args:
        images: float (N, 1, H, W) in [0, 1], on any device.
        target: index of the class to explain, one for all images or one for each; None is the
            class that the network predicts.
        layer: "block1" .. "block4", whose output is looked at; for "exact" also "all", the sum of
            all scales that the head sees.
        method: "gradcam", "gradcam++", "hirescam", "layercam" and "ablationcam" are those of
            pytorch-grad-cam; "exact" is this head's own (see the module). Score-CAM is left out
            because it needs a pass of the whole network for every channel, Eigen-CAM because its
            map does not depend on the class.
        batch_size: images in one pass.
        full_size: maps at the size of the images; else at that of the layer (not for "all").

    Returns:
        float32 (N, H, W) on the CPU, not normalised; see `normalise`.

        The library's methods give values >= 0 on a scale of their own, which differs between
        methods, layers and images; enlarged bilinearly. "exact" gives signed contributions to the
        logit: positive speaks for the class, negative against it. They are enlarged by sharing a
        value out over its area, so the sum of a map stays; the maps of all scales, or the map of
        "all", sum to the logit minus its bias.

    Raises:
        ValueError: unknown layer, method or class, or images that the network cannot take.
    """
    _check(layer, method, full_size)
    targets = None if target is None else _targets(target, len(images), model.head.out_features)
    parts = []
    with evaluating(model), torch.inference_mode(False):  # some methods need gradients
        for batch in in_batches(model, images, batch_size):
            with torch.no_grad():
                found = model.maps(batch)
            if targets is None:
                chosen = found["logits"].argmax(dim=1)
            else:
                done = sum(map(len, parts))
                chosen = targets[done : done + len(batch)].to(batch.device)
            size = tuple(batch.shape[2:])
            if method == "exact":
                parts.append(_exact(model, found, chosen, layer, size if full_size else None))
            else:
                maps = _from_library(model, found, chosen, layer, method).clamp(min=0)
                parts.append(enlarge(maps, size) if full_size else maps)
    return torch.cat(parts)


def _check(layer: str, method: str, full_size: bool) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if layer not in LAYERS and not (layer == "all" and method == "exact"):
        wanted = ", ".join(LAYERS) + ", all" * (method == "exact")
        raise ValueError(f"layer must be one of {wanted} for {method!r}, got {layer!r}")
    if layer == "all" and not full_size:
        raise ValueError("the scales have different sizes: layer 'all' needs full_size=True")


def _targets(target: Target, count: int, classes: int) -> Tensor:
    """Class indices (N,), int64, from one for all or one for each."""
    given = torch.as_tensor(target)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise ValueError(f"target must hold class indices, got {given.dtype}")
    if given.ndim > 1 or (given.ndim == 1 and len(given) != count):
        raise ValueError(f"target must be one class, or one for each of {count} images; got "
                         f"shape {tuple(given.shape)}")  # fmt: skip
    if given.numel() and not (0 <= given.min() and given.max() < classes):
        raise ValueError(f"target must lie in 0..{classes - 1}; got {given.min()} to {given.max()}")
    return given.long().expand(count)


def _exact(
    model: LANMSFF,
    found: dict[str, Tensor],
    targets: Tensor,
    layer: str,
    size: tuple[int, int] | None,
) -> Tensor:
    """Signed contributions (N, H, W) of the pixels of one scale, or of all, to the logits."""
    names = LAYERS if model.config["multi_scale"] else LAYERS[-1:]
    fused = {name: found.get(name.replace("block", "pwfs"), found[name]) for name in names}
    if layer != "all" and layer not in fused:
        raise ValueError(f"the head of this network sees block4 only, not {layer}")
    weights = model.head.weight.detach()[targets].split([m.shape[1] for m in fused.values()], dim=1)
    scales = {
        name: torch.einsum("nc,nchw->nhw", weight, maps) / maps[0, 0].numel()
        for (name, maps), weight in zip(fused.items(), weights)
        if layer in (name, "all")
    }
    if size is not None:
        scales = {name: spread(maps, size) for name, maps in scales.items()}
    return sum(scales.values()).float().cpu()


class _Tail(nn.Module):
    """The network from the output of one block on; the scales before it are held fixed.

    `layer` passes that output on. It is there for pytorch-grad-cam, which hooks and replaces
    modules: so it never touches the network itself, and passes through the tail cost less.
    """

    def __init__(self, model: LANMSFF, earlier: list[Tensor]):
        super().__init__()
        self.layer = nn.Identity()
        blocks = (model.block1, model.block2, model.block3, model.block4)
        self.later = nn.ModuleList(blocks[len(earlier) + 1 :])
        self.fusion, self.head = model.fusion, model.head
        self.earlier = earlier

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block (B, C, h, w) -> logits (B, K)."""
        x = self.layer(x)
        scales = [scale.expand(len(x), -1, -1, -1) for scale in self.earlier] + [x]
        for block in self.later:
            scales.append(block(scales[-1]))
        return self.head(self.fusion(scales))


def _from_library(
    model: LANMSFF, found: dict[str, Tensor], targets: Tensor, layer: str, method: str
) -> Tensor:
    """Maps (N, h, w) of pytorch-grad-cam on the output of one block, before their ReLU."""
    before = LAYERS[: LAYERS.index(layer)]
    if method == "ablationcam":
        maps = [
            _ablation(_Tail(model, [found[name][k, None] for name in before]), x[None], int(t))
            for k, (x, t) in enumerate(zip(found[layer], targets))
        ]
        return torch.cat(maps)
    tail = _Tail(model, [found[name] for name in before])
    output = found[layer].detach().requires_grad_()
    with torch.enable_grad():
        logits = tail(output)
        chosen = logits.gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, output)
    with _GRADIENT[method](tail, [tail.layer]) as tool:
        return _maps(tool, tail, output, targets, gradient)


def _ablation(tail: _Tail, output: Tensor, target: int) -> Tensor:
    tool = AblationCAM(tail, [tail.layer], ablation_layer=AblationLayer(), batch_size=256)
    with tool, redirect_stderr(io.StringIO()):  # a progress bar for every image
        return _maps(tool, tail, output, torch.tensor([target]), None)


def _maps(
    tool: BaseCAM, tail: _Tail, output: Tensor, targets: Tensor, gradient: Tensor | None
) -> Tensor:
    # the step of the library that comes before it normalises each map and loses its scale
    made = tool.get_cam_image(
        output.detach(),
        tail.layer,
        [ClassifierOutputTarget(int(t)) for t in targets],
        output.detach().cpu().numpy(),
        None if gradient is None else gradient.cpu().numpy(),
        False,
    )
    return torch.from_numpy(np.asarray(made, np.float32))
