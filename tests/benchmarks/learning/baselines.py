"""Baselines in place of parts of the product's training: LoRA, and backward-compatible training."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from services.trainer.training.finetuner import Finetuner, Hyperparameters
from services.trainer.training.losses import CosineObjective
from services.trainer.training.step_back import StepBack
from shared.model.network.iresnet import IResNet

_RANK = 16
# Updates that start at zero need larger steps than the network's own weights.
_LORA_LEARNING_RATE = 2e-3


class LowRankUpdate(nn.Module):
    """Adds a learned matrix of low rank to a frozen weight (LoRA; Hu et al. 2022).

    Args:
        weight: The weight, [out, ...]; its other dimensions are taken as one.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        wide = weight[0].numel()
        rank = min(_RANK, len(weight), wide)
        self.down = nn.Parameter(torch.randn(rank, wide) / wide**0.5)
        self.up = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


class LoraFinetuner(Finetuner):
    """Fine-tunes low-rank updates of all convolutions and the last layer; the rest is frozen."""

    def __init__(
        self, network: IResNet, *args: Any, hyperparameters: Hyperparameters, **kwargs: Any
    ) -> None:
        self._adapted = network
        torch.manual_seed(0)
        network.requires_grad_(requires_grad=False)
        for layer in _layers(network):
            register_parametrization(layer, "weight", LowRankUpdate(layer.weight))
        faster = replace(hyperparameters, learning_rate=_LORA_LEARNING_RATE)
        super().__init__(network, *args, hyperparameters=faster, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        epochs = super().run(*args, **kwargs)
        for layer in _layers(self._adapted):
            remove_parametrizations(layer, "weight")
        self._adapted.requires_grad_()
        return epochs


def _layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]


def _objective(**changes: float) -> Callable[..., CosineObjective]:
    return lambda **given: CosineObjective(**(given | changes))


_BCT = {"compatibility": 1.0, "margin": 0.0, "distillation": 0.0, "magnitude": 0.0}
_RECIPES = "services.trainer.training.recipes"
_PATCHES: dict[str, dict[str, Any]] = {
    "ours": {},
    "lora": {f"{_RECIPES}.Finetuner": LoraFinetuner},
    # Shen et al., CVPR 2020: the loss of the labels, and the same between new and old embeddings.
    "bct": {
        f"{_RECIPES}.CosineObjective": _objective(**_BCT),
        "services.trainer.training.run._MAX_REPLAY_ERROR": -1.0,
    },
    # As it was trained, without a look at validation people.
    "hadsell": {
        "services.trainer.training.run.step_back": lambda *_, **__: StepBack(0.0, 0.0, 0.0, 0)
    },
}


@contextmanager
def as_baseline(recipe: str) -> Iterator[None]:
    """Train as a baseline in the block: "lora", "bct", "hadsell", or "ours" without a change."""
    with ExitStack() as stack:
        for name, value in _PATCHES[recipe].items():
            stack.enter_context(patch(name, value))
        yield
