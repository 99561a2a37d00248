"""The training loop: epochs that can be interrupted, and steps that do not waste."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module

from services.trainer.data.arrays import Crops, Features
from services.trainer.data.batches import Batch
from services.trainer.training.augmentation import augment, augmentation
from services.trainer.training.checkpoint import EpochState
from services.trainer.training.distributed import (
    agreed,
    gathered,
    leads,
    own_share,
    processes,
    replicated,
    shared_after,
)
from services.trainer.training.losses import Objective
from services.trainer.training.replay import Replay
from services.trainer.training.weight_averaging import RunningAverage, frozen_copy, move_towards
from shared.errors import CorruptData
from shared.model.manifest import ChannelOrder
from shared.model.network.iresnet import IResNet
from shared.model.sessions.base import network_input

# Scores of a few dozen people differ by as much without a reason.
_SCORE_NOISE = 0.01


class Batches(Protocol):
    """Deals one epoch's batches; the same ones for the same generator."""

    def __call__(self, generator: np.random.Generator) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Faces:
    """Crops and what the parent says of them.

    Attributes:
        crops: uint8 [N, 112, 112, 3], BGR.
        parent: float32 [N, D], the parent's features, not normalised.
    """

    crops: Crops
    parent: Features


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train; see `services.trainer.training.run` for the defaults.

    Attributes:
        epochs: Passes over the feedback.
        learning_rate: Peak, of AdamW.
        seed: Of order and augmentation.
        augmentation: Probability of each step of `augmentation`; None leaves images alone.
        averaging: Decay a step of the running average of the weights, which is what comes of
            the training; 0 takes the weights as they are.
        of_parent: Share of the parent in the weights that come of it: a step back along the
            way gone keeps more of what the parent knew than it costs of what was learned
            (Wortsman et al., CVPR 2022, "Robust fine-tuning of zero-shot models").
        mixed_precision: Compute in bfloat16 where torch holds it safe.
        images_at_once: Most images whose inner values are kept at a time; a step of more
            computes each of them twice.
    """

    epochs: int
    learning_rate: float
    seed: int
    augmentation: float | None = 0.3
    averaging: float = 0.0
    of_parent: float = 0.0
    weight_decay: float = 0.05
    warm_up: float = 0.1
    clip: float = 5.0
    mixed_precision: bool = False
    images_at_once: int = 72


@dataclass(frozen=True)
class Epoch:
    """What came of one epoch."""

    number: int
    loss: float
    score: float
    images_per_second: float


class Finetuner:
    """Fine-tunes a network in place; on several processes as on one, see `distributed`.

    Args:
        network: The parent's copy.
        channel_order: What the network wants.
        plan: How.
        objective: What to minimise.
        feedback: The labelled images.
        batches: Deals them out.
        replay: uint8 [M, 112, 112, 3], BGR, see `Replay`; None for no replay.
    """

    def __init__(
        self,
        network: IResNet,
        channel_order: ChannelOrder,
        *,
        plan: Plan,
        objective: Objective,
        feedback: Faces,
        batches: Batches,
        replay: Crops | None,
    ) -> None:
        self._network = network
        self._replica = replicated(network)
        self._channel_order = channel_order
        self._plan = plan
        self._objective = objective
        self._feedback = feedback
        self._batches = batches
        self._parent = frozen_copy(network)
        self._averaged = RunningAverage(network, plan.averaging)
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self._change = None if plan.augmentation is None else augmentation(plan.augmentation)
        self._replay = (
            None if replay is None else Replay(replay, self._as_parent, spoil=self._change)
        )
        self._device = next(network.parameters()).device
        self._best: dict[str, Any] = {}
        self._history: list[Epoch] = []

    def run(
        self,
        validate: Callable[[IResNet], float],
        state: EpochState,
        file: Path,
        tick: Callable[[float, int, float], None],
    ) -> list[Epoch]:
        """Train to the end, from where `state` says an earlier run was stopped.

        Args:
            validate: Gives a network's score on validation people; higher is better.
            state: Keeps each finished epoch.
            file: Scratch for the state.
            tick: Called each step with the share done, the epoch and the loss.

        Returns:
            Every epoch; the network then holds what comes of the best one.

        Raises:
            CorruptData: If the loss is no number any more.
        """
        # Only one asks for it: a state that is replaced meanwhile would part them.
        found = leads() and state.load(file)
        kept = agreed(torch.load(file, map_location="cpu", weights_only=True) if found else None)
        if kept is not None:
            self._restore(kept)
        for number in range(len(self._history) + 1, self._plan.epochs + 1):
            loss, speed = self._epoch(number, tick)
            self._finish(Epoch(number, loss, agreed(validate(self._averaged.network)), speed))
            if leads():
                torch.save(self._snapshot(), file)
                state.save(file)
        self._network.load_state_dict(self._best)
        move_towards(self._network, self._parent, self._plan.of_parent)
        self._network.eval()
        return list(self._history)

    def _finish(self, epoch: Epoch) -> None:
        self._history.append(epoch)
        # Of those that are told apart by chance only, the latest: it has seen most.
        if epoch.score >= max(earlier.score for earlier in self._history) - _SCORE_NOISE:
            self._best = copy.deepcopy(self._averaged.network.state_dict())

    def _epoch(self, number: int, tick: Callable[[float, int, float], None]) -> tuple[float, float]:
        generator = np.random.default_rng([self._plan.seed, number])
        torch.manual_seed(int(generator.integers(2**62)))
        # Eval mode trains all the same: it freezes BatchNorm's statistics, which a batch
        # would replace at the official momentum of 0.9, and keeps dropout off.
        self._network.eval()
        batches = list(self._batches(generator))
        total, images, start = 0.0, 0, time.monotonic()
        for index, batch in enumerate(batches):
            done = (number - 1 + (index + 1) / len(batches)) / self._plan.epochs
            self._set_learning_rate(done)
            loss = self._step(batch, generator)
            if not math.isfinite(loss):
                raise CorruptData(
                    f"the training diverged: the loss is {loss} at step {index + 1} of epoch "
                    f"{number}; try a learning rate below {self._plan.learning_rate:g}"
                )
            total += loss
            images += len(batch.images)
            tick(done, number, loss)
        return total / len(batches), images / (time.monotonic() - start)

    def _set_learning_rate(self, done: float) -> None:
        warm_up = self._plan.warm_up
        if done < warm_up:
            factor = done / warm_up
        else:
            factor = (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = factor * self._plan.learning_rate

    def _step(self, batch: Batch, generator: np.random.Generator) -> float:
        # All of the batch on each process, though it embeds but its share: so all draw alike.
        crops = self._feedback.crops[batch.images]
        if self._change is not None:
            crops = augment(crops, self._change)
        parent = self._feedback.parent[batch.images]
        if self._replay is not None:
            again, wanted = self._replay.deal(generator)
            crops, parent = np.concatenate([crops, again]), np.concatenate([parent, wanted])
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._backward(crops, partial(self._loss, batch, self._on_device(parent)))
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._plan.clip)
        self._optimizer.step()
        self._averaged.update(self._network)
        return loss.item()

    def _loss(self, batch: Batch, parent: Tensor, features: Tensor) -> Tensor:
        count = len(batch.images)
        loss = self._objective.feedback(
            features[:count],
            parent[:count],
            self._on_device(batch.genuine),
            self._on_device(batch.impostor),
        )
        if self._replay is not None:
            loss = loss + self._objective.replay(features[count:], parent[count:])
        return loss

    def _backward(self, crops: Crops, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Leave the gradients of a loss that compares the features of all crops.

        Where the crops are too many to keep the network's inner values of, each part goes
        through it twice: once for the features, and once for what their gradients become
        (Gao et al. 2021, "Scaling deep contrastive learning batch size under memory limited
        setup"). The gradients are the same.
        """
        own = crops[own_share(len(crops))]
        parts = np.array_split(own, -(-len(own) // self._plan.images_at_once) or 1)
        with torch.set_grad_enabled(len(parts) == 1):
            features = torch.cat([self._forward(part, self._replica) for part in parts])
        features.requires_grad_()
        loss = loss_of(gathered(features, len(crops)))
        # The gradients of the processes add up to the whole one, and are averaged.
        whole = loss * processes()
        if len(parts) == 1:
            whole.backward()  # type: ignore[no-untyped-call]
            return loss
        (gradient,) = torch.autograd.grad(whole, features)
        pieces = torch.split(gradient, [len(part) for part in parts])
        for place, (part, piece) in enumerate(zip(parts, pieces, strict=True), 1):
            with shared_after(self._replica, last=place == len(parts)):
                self._forward(part, self._replica).backward(piece)  # type: ignore[no-untyped-call]
        return loss

    def _as_parent(self, crops: Crops) -> Features:
        with torch.no_grad():
            return self._forward(crops, self._parent).cpu().numpy()

    def _forward(self, crops: Crops, network: Module) -> Tensor:
        images = self._on_device(network_input(crops, self._channel_order))
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._plan.mixed_precision):
            features: Tensor = network(images)
        return features.float()

    def _on_device(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _snapshot(self) -> dict[str, Any]:
        return {
            "network": self._network.state_dict(),
            "averaged": self._averaged.state(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "history": [vars(epoch) for epoch in self._history],
        }

    def _restore(self, snapshot: dict[str, Any]) -> None:
        self._network.load_state_dict(snapshot["network"])
        self._averaged.restore(snapshot["averaged"])
        self._optimizer.load_state_dict(snapshot["optimizer"])
        self._best = snapshot["best"]
        self._history = [Epoch(**epoch) for epoch in snapshot["history"]]
