"""Weight averaging: exponential moving average, and interpolation with the parent (WiSE-FT)."""

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from shared.model.network.iresnet import IResNet

# Keeps the average of the first steps over a part of the steps so far only.
_WARM_UP_STEPS = 9

_Tensors = tuple[Tensor, ...] | list[Tensor]


class MovingAverage:
    """Exponential moving average of a network's weights (Polyak and Juditsky 1992).

    Args:
        network: The network; it is copied, and its weights are the start of the average.
        decay: Weight of the earlier average at each step; 0 follows the weights themselves.
    """

    def __init__(self, network: IResNet, decay: float) -> None:
        self._averaged = AveragedModel(network, multi_avg_fn=_moving_average(decay))
        self._averaged.requires_grad_(requires_grad=False)
        self._averaged.eval()
        # The start counts as the first step. At 0, torch would replace it by the next weights.
        self._averaged.n_averaged.fill_(1)

    @property
    def network(self) -> IResNet:
        """The network with the averaged weights; frozen."""
        return cast("IResNet", self._averaged.module)

    def update(self, network: IResNet) -> None:
        """Add the weights after an optimizer step."""
        self._averaged.update_parameters(network)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores."""
        return {
            "network": self.network.state_dict(),
            "steps": int(self._averaged.n_averaged) - 1,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict`."""
        self.network.load_state_dict(state["network"])
        self._averaged.n_averaged.fill_(state["steps"] + 1)


def _moving_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Return the update step of `AveragedModel`, with a warm-up of the decay."""

    @torch.no_grad()
    def update(averaged: _Tensors, current: _Tensors, steps: Tensor | int) -> None:
        step = int(steps)
        share = 1 - min(decay, step / (step + _WARM_UP_STEPS))
        torch._foreach_lerp_(averaged, current, share)

    return update


def frozen_copy(network: IResNet) -> IResNet:
    """Return a copy of a network in eval mode that is not trained."""
    copied = copy.deepcopy(network).eval()
    copied.requires_grad_(requires_grad=False)
    return copied


def interpolate(network: IResNet, parent: IResNet, share: float) -> None:
    """Move the weights of a network in place by a share of the way to its parent's (WiSE-FT)."""
    with torch.no_grad():
        for weights, target in zip(network.parameters(), parent.parameters(), strict=True):
            weights.lerp_(target, share)
