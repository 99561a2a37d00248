"""Baseline: the fine-tuning loop of the document that this project started from.

It has the faults of that document: BatchNorm and dropout in train mode, a margin on the wrong side
of the threshold, and four embeddings per pair. Only the channel order is changed to the model's.
"""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from shared.model.manifest import ChannelOrder
from shared.model.sessions.base import network_input
from tests.benchmarks.learning.faces import Crops, PairRows

_MARGIN, _LEARNING_RATE, _THRESHOLD = 1.0, 1e-4, 0.4
_BATCH = 16
_VALIDATED_ONE_IN = 5


def make_optimizer(network: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)


def seed_step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    first: Tensor,
    second: Tensor,
    label: Tensor,
) -> float:
    """Train on one batch: forward and backward pass of two embeddings per pair.

    Args:
        network: In train or eval mode.
        optimizer: From `make_optimizer`.
        first: float32 [P, 3, 112, 112].
        second: float32 [P, 3, 112, 112].
        label: float32 [P], 1 for genuine and 0 for impostor pairs.

    Returns:
        The loss.
    """
    distance = functional.pairwise_distance(
        functional.normalize(network(first), p=2, dim=1),
        functional.normalize(network(second), p=2, dim=1),
    )
    loss_same = distance.square()
    loss_diff = (_MARGIN - distance).clamp_min(0).square()
    loss = (label * loss_same + (1 - label) * loss_diff).mean()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def seed_accuracy(network: torch.nn.Module, first: Tensor, second: Tensor, label: Tensor) -> float:
    """Compute the accuracy on a batch, with two more embeddings per pair; changes no state."""
    training = network.training
    network.eval()
    with torch.no_grad():
        similarity = functional.cosine_similarity(network(first), network(second))
    network.train(training)
    return ((similarity > _THRESHOLD) == (label > 0.5)).float().mean().item()


def seed_batches(
    crops: Crops, pairs: PairRows, order: ChannelOrder, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield all pairs once; a last batch of one pair is dropped, since BatchNorm refuses it."""
    shuffled = rng.permutation(len(pairs.same))
    for chosen in np.split(shuffled, range(_BATCH, len(shuffled), _BATCH)):
        if len(chosen) > 1:
            left, right = pairs.rows[chosen].T
            label = torch.from_numpy(pairs.same[chosen].astype(np.float32))
            yield _input(crops[left], order), _input(crops[right], order), label


def _input(crops: NDArray[np.uint8], order: ChannelOrder) -> Tensor:
    return torch.from_numpy(network_input(crops, order))


def train_as_seed(
    network: torch.nn.Module,
    order: ChannelOrder,
    crops: Crops,
    pairs: PairRows,
    *,
    epochs: int,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Train in place, and keep the best epoch on a validation set of a fifth of the pairs.

    The accuracy of each batch is not computed here: it costs time and changes no weights.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    order_of_pairs = rng.permutation(len(pairs.same))
    held_out, learned = np.split(order_of_pairs, [len(order_of_pairs) // _VALIDATED_ONE_IN])
    training, validation = pairs.subset(learned), pairs.subset(held_out)
    optimizer = make_optimizer(network)
    best, best_accuracy = copy.deepcopy(network.state_dict()), 0.0
    for epoch in range(1, epochs + 1):
        network.train()
        losses = [
            seed_step(network, optimizer, *batch)
            for batch in seed_batches(crops, training, order, rng)
        ]
        accuracy = _validate(network, seed_batches(crops, validation, order, rng))
        if accuracy > best_accuracy:
            best, best_accuracy = copy.deepcopy(network.state_dict()), accuracy
        report(f"epoch {epoch} of {epochs}, loss {np.mean(losses):.3f}, accuracy {accuracy:.3f}")
    network.load_state_dict(best)
    network.eval()


def _validate(network: torch.nn.Module, batches: Iterator[tuple[Tensor, Tensor, Tensor]]) -> float:
    measured = [(seed_accuracy(network, *batch), len(batch[2])) for batch in batches]
    accuracies, sizes = zip(*measured, strict=True)
    return float(np.average(accuracies, weights=sizes))
