"""Networks between networks: weights that are means of others."""

import copy
from typing import Any

import torch

from shared.model.network.iresnet import IResNet

# Its first steps reach back over no more than a part of those there were.
_SLOW_START = 9


class RunningAverage:
    """The mean of a network's weights over its last steps (Polyak and Juditsky 1992).

    Attributes:
        network: Holds the mean; frozen.

    Args:
        network: Whose weights; is copied.
        decay: Of the older ones a step; 0 follows the weights themselves.
    """

    def __init__(self, network: IResNet, decay: float) -> None:
        self.network = frozen_copy(network)
        self._decay = decay
        self._steps = 0

    def update(self, network: IResNet) -> None:
        """Take in the weights after a step."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + _SLOW_START))
        move_towards(self.network, network, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Give all that `restore` needs."""
        return {"network": self.network.state_dict(), "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self._steps = state["steps"]


def frozen_copy(network: IResNet) -> IResNet:
    """A copy that computes as the network does now, and is not trained."""
    copied = copy.deepcopy(network).eval()
    copied.requires_grad_(requires_grad=False)
    return copied


def move_towards(network: IResNet, other: IResNet, share: float) -> None:
    """Move the weights in place by a share of the way to another network's."""
    with torch.no_grad():
        for weights, goal in zip(network.parameters(), other.parameters(), strict=True):
            weights.lerp_(goal, share)
