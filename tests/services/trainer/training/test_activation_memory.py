"""How many images a training step keeps the activations of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.data.arrays import CropArray
from services.trainer.training import activation_memory
from services.trainer.training.activation_memory import activation_bytes, images_at_once
from shared.model.network.iresnet import IResNet
from shared.model.sessions.base import network_input
from tests.services.trainer.training.test_finetuner import finetuner, tiny_network, train

CPU = torch.device("cpu")


class Forward:
    """The forward pass of a network, as a training makes it."""

    def __init__(self, network: IResNet, *, mixed: bool = False) -> None:
        self._network, self._mixed = network, mixed

    def __call__(self, crops: CropArray) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._mixed):
            features: Tensor = self._network(torch.from_numpy(network_input(crops, "bgr")))
        return features.float()


@pytest.mark.parametrize("mixed", [False, True])
def test_the_bytes_of_an_image_are_what_more_images_keep(*, mixed: bool) -> None:
    forward = Forward(tiny_network(), mixed=mixed)
    kept: set[tuple[int, int]] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()))
        return tensor

    def total(images: int) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = forward(np.zeros((images, 112, 112, 3), np.uint8))
        assert features.requires_grad
        return sum(size for _, size in kept)

    assert (total(9) - total(5)) / 4 == pytest.approx(activation_bytes(forward), rel=0.01)


def test_deeper_networks_and_wider_numbers_keep_more() -> None:
    shallow = activation_bytes(Forward(tiny_network()))
    assert activation_bytes(Forward(tiny_network(blocks=3))) > 1.3 * shallow
    assert activation_bytes(Forward(tiny_network(), mixed=True)) < 0.7 * shallow
    with torch.no_grad():
        assert activation_bytes(Forward(tiny_network())) == shallow


def test_the_count_follows_the_budget_and_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Forward(tiny_network())
    per_image = activation_bytes(forward)
    for budget, expected in ((per_image - 1, 1), (5 * per_image, 5), (10**15, 72)):
        monkeypatch.setattr(activation_memory, "_CPU_BYTES", budget)
        assert images_at_once(forward, CPU) == expected


def test_a_training_keeps_no_more_than_the_budget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = tiny_network()
    budget = 4 * activation_bytes(Forward(network))
    monkeypatch.setattr(activation_memory, "_CPU_BYTES", budget)
    tuner = finetuner(network, epochs=1, images_at_once=None)
    kept_at_once: list[int] = []

    def count(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            kept_at_once.append(len(inputs[0]))

    network.register_forward_pre_hook(count)
    train(tuner, tmp_path)
    assert kept_at_once
    assert max(kept_at_once) <= 4
