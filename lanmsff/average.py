"""The moving average of a network's weights, which is what a recipe with `average` keeps."""

import copy

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """An exponential moving average of parameters and of batch norm's running statistics.

    Batch norm's statistics must fit the weights that they are used with. Averaged at the same pace
    they do, and no pass over the data is needed, as it would be for an average with equal shares.

    Args:
        model: the network that is trained; the average starts as it is now.
        decay: what the average keeps of itself in a step, once enough steps are behind it.

    Attributes:
        model: the averaged network, in evaluation mode.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self._averaged, self._current = (
            [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
            for network in (self.model, model)
        )

    def update(self, steps: int) -> None:
        """Take in the weights after step number `steps`, counted from 1.

        The decay warms up as (1 + steps) / (10 + steps): the average covers about the last tenth
        of the steps until the full decay is reached, so that short runs do not average in the
        weights that they started from.
        """
        decay = min(self.decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(decay)(self._averaged, self._current, steps)
