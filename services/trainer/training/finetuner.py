"""Fine-tuning loop: optimizer steps, epochs and checkpoints."""

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

from services.trainer.data.arrays import CropArray, FeatureArray
from services.trainer.data.batches import TrainingBatch
from services.trainer.training.activation_memory import images_at_once
from services.trainer.training.augmentation import augment, augmentation
from services.trainer.training.checkpoint import CheckpointStore
from services.trainer.training.distributed import (
    all_gather_features,
    broadcast,
    gradient_sync,
    is_rank0,
    shard,
    world_size,
    wrap_ddp,
)
from services.trainer.training.losses import Objective
from services.trainer.training.replay import Replay, ReplayedFaces
from services.trainer.training.weight_averaging import MovingAverage, frozen_copy
from shared.errors import CorruptData
from shared.model.manifest import ChannelOrder
from shared.model.network.iresnet import IResNet
from shared.model.sessions.base import network_input

# Validation scores on a few dozen people differ by as much at random.
_SCORE_NOISE = 0.01


class BatchSource(Protocol):
    """Makes the batches of an epoch; the same batches for the same generator state."""

    def __call__(self, generator: np.random.Generator) -> Iterator[TrainingBatch]: ...


@dataclass(frozen=True)
class FacesWithParent:
    """Crops, and their features under the parent.

    Attributes:
        crops: uint8 [N, 112, 112, 3], BGR.
        parent: float32 [N, D], not normalised.
    """

    crops: CropArray
    parent: FeatureArray


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Hyperparameters of a training; `services.trainer.training.recipes` has the defaults.

    Attributes:
        epochs: Passes over the feedback.
        learning_rate: Peak learning rate of AdamW.
        seed: Seed of the order and the augmentation.
        augmentation: Probability of each step of `augmentation`; None for no augmentation.
        averaging: Decay per step of the moving average of the weights, which is the result of
            the training; 0 for the weights themselves.
        weight_decay: Weight decay of AdamW.
        warm_up: Share of the training in which the learning rate rises to its peak.
        clip: Largest norm of the gradient.
        mixed_precision: Compute in bfloat16 where torch's autocast allows it.
        images_at_once: Largest number of images whose activations are kept in memory; a step
            with more images computes them twice. None for as many as `activation_memory` allows.
    """

    epochs: int
    learning_rate: float
    seed: int
    augmentation: float | None = 0.3
    averaging: float = 0.0
    weight_decay: float = 0.05
    warm_up: float = 0.1
    clip: float = 5.0
    mixed_precision: bool = False
    images_at_once: int | None = None


@dataclass(frozen=True)
class Epoch:
    """A finished epoch.

    Attributes:
        number: From 1.
        loss: Mean loss of its steps.
        score: Validation score of the averaged weights after it.
        images_per_second: Distinct labelled images per second.
    """

    number: int
    loss: float
    score: float
    images_per_second: float


class Finetuner:
    """Fine-tunes a network in place, on one process or several; see `distributed`.

    Args:
        network: A network with the parent's weights.
        channel_order: Channel order of its input.
        hyperparameters: Hyperparameters.
        objective: The loss.
        feedback: The labelled images.
        batches: Makes the batches of an epoch.
        replay: Faces to replay; None for no replay.

    Attributes:
        images_at_once: Largest number of images whose activations are kept in memory.
    """

    def __init__(
        self,
        network: IResNet,
        channel_order: ChannelOrder,
        *,
        hyperparameters: Hyperparameters,
        objective: Objective,
        feedback: FacesWithParent,
        batches: BatchSource,
        replay: ReplayedFaces | None,
    ) -> None:
        self._layout = _memory_format(network)
        self._network = network.to(memory_format=self._layout)
        self._wrapped = wrap_ddp(network)
        self._channel_order = channel_order
        self._hyperparameters = hyperparameters
        self._objective = objective
        self._feedback = feedback
        self._batches = batches
        self._average = MovingAverage(network, hyperparameters.averaging)
        self._optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=hyperparameters.learning_rate,
            weight_decay=hyperparameters.weight_decay,
        )
        probability = hyperparameters.augmentation
        self._augmentation = None if probability is None else augmentation(probability)
        self._replay = (
            None
            if replay is None
            else Replay(replay, partial(self._features, frozen_copy(network)))
        )
        self._device = next(network.parameters()).device
        self.images_at_once = hyperparameters.images_at_once or images_at_once(
            partial(self._forward, network=network), self._device
        )
        self._best: dict[str, Any] = {}
        self._history: list[Epoch] = []

    def run(
        self,
        validate: Callable[[IResNet], float],
        checkpoints: CheckpointStore,
        file: Path,
        tick: Callable[[float, int, float], None],
    ) -> list[Epoch]:
        """Train all epochs, from the latest checkpoint if there is one.

        Args:
            validate: Returns a network's score on validation people; higher is better.
            checkpoints: Stores a checkpoint after each epoch.
            file: Scratch file for checkpoints.
            tick: Called at each step with the share done, the epoch and the loss.

        Returns:
            Every epoch. The network then has the weights of the best one.

        Raises:
            CorruptData: If the loss becomes NaN or infinite.
        """
        self._resume(checkpoints, file)
        for number in range(len(self._history) + 1, self._hyperparameters.epochs + 1):
            loss, speed = self._epoch(number, tick)
            score = broadcast(validate(self._average.network))
            self._finish(Epoch(number, loss, score, speed))
            if is_rank0():
                torch.save(self._state_dict(), file)
                checkpoints.save(file)
        self._network.load_state_dict(self._best)
        self._network.eval().to(memory_format=torch.contiguous_format)
        return list(self._history)

    def _resume(self, checkpoints: CheckpointStore, file: Path) -> None:
        # Only rank 0 reads the checkpoint: one replaced in between would differ by process.
        state = None
        if is_rank0() and checkpoints.load(file):
            state = torch.load(file, map_location="cpu", weights_only=True)
        state = broadcast(state)
        if state is not None:
            self._load_state_dict(state)

    def _finish(self, epoch: Epoch) -> None:
        self._history.append(epoch)
        # Of epochs that differ by chance only, the latest: it was trained longest.
        if epoch.score >= max(earlier.score for earlier in self._history) - _SCORE_NOISE:
            self._best = copy.deepcopy(self._average.network.state_dict())

    def _epoch(self, number: int, tick: Callable[[float, int, float], None]) -> tuple[float, float]:
        """Train an epoch; return its mean loss and its images per second."""
        generator = np.random.default_rng([self._hyperparameters.seed, number])
        torch.manual_seed(int(generator.integers(2**62)))
        # Eval mode freezes BatchNorm's statistics, which a batch would replace at the official
        # momentum of 0.9, and disables dropout. Gradients are computed all the same.
        self._network.eval()
        batches = list(self._batches(generator))
        total, images, start = 0.0, 0, time.monotonic()
        for index, batch in enumerate(batches):
            done = (number - 1 + (index + 1) / len(batches)) / self._hyperparameters.epochs
            self._set_learning_rate(done)
            loss = self._step(batch, generator)
            if not math.isfinite(loss):
                raise CorruptData(
                    f"the training diverged: the loss is {loss} at step {index + 1} of epoch "
                    f"{number}; try a learning rate below "
                    f"{self._hyperparameters.learning_rate:g}"
                )
            total += loss
            images += len(batch.images)
            tick(done, number, loss)
        return total / len(batches), images / (time.monotonic() - start)

    def _set_learning_rate(self, done: float) -> None:
        """Linear warm-up, then cosine decay."""
        warm_up = self._hyperparameters.warm_up
        if done < warm_up:
            factor = done / warm_up
        else:
            factor = (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = factor * self._hyperparameters.learning_rate

    def _step(self, batch: TrainingBatch, generator: np.random.Generator) -> float:
        # Every process augments the whole batch, though it embeds only its shard, so that the
        # random states of all processes stay the same.
        crops = self._feedback.crops[batch.images]
        if self._augmentation is not None:
            crops = augment(crops, self._augmentation)
        parent = self._feedback.parent[batch.images]
        if self._replay is not None:
            replayed, targets = self._replay.sample(generator)
            crops, parent = np.concatenate([crops, replayed]), np.concatenate([parent, targets])
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._backward(crops, partial(self._loss, batch, self._to_device(parent)))
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._hyperparameters.clip)
        self._optimizer.step()
        self._average.update(self._network)
        return loss.item()

    def _loss(self, batch: TrainingBatch, parent: Tensor, features: Tensor) -> Tensor:
        count = len(batch.images)
        loss = self._objective.feedback(
            features[:count],
            parent[:count],
            self._to_device(batch.genuine),
            self._to_device(batch.impostor),
        )
        if self._replay is not None:
            loss = loss + self._objective.replay(features[count:], parent[count:])
        return loss

    def _backward(self, crops: CropArray, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute the gradients of a loss that compares the features of all crops.

        If there are too many crops to keep their activations, the forward pass runs twice in
        parts: once for the features, and once to propagate the gradients of the features (Gao et
        al. 2021, "Scaling deep contrastive learning batch size under memory limited setup"). The
        gradients are the same.
        """
        own = crops[shard(len(crops))]
        parts = np.array_split(own, -(-len(own) // self.images_at_once) or 1)
        with torch.set_grad_enabled(len(parts) == 1):
            features = torch.cat([self._forward(part, self._wrapped) for part in parts])
        features.requires_grad_()
        loss = loss_of(all_gather_features(features, len(crops)))
        # DDP averages gradients that should be summed.
        scaled = loss * world_size()
        if len(parts) == 1:
            scaled.backward()  # type: ignore[no-untyped-call]
            return loss
        (gradient,) = torch.autograd.grad(scaled, features)
        gradients = torch.split(gradient, [len(part) for part in parts])
        for number, (part, piece) in enumerate(zip(parts, gradients, strict=True), 1):
            with gradient_sync(self._wrapped, enabled=number == len(parts)):
                self._forward(part, self._wrapped).backward(piece)  # type: ignore[no-untyped-call]
        return loss

    def _features(self, network: IResNet, crops: CropArray) -> FeatureArray:
        with torch.no_grad():
            return self._forward(crops, network).cpu().numpy()

    def _forward(self, crops: CropArray, network: Module) -> Tensor:
        images = self._to_device(network_input(crops, self._channel_order))
        images = images.to(memory_format=self._layout)
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._hyperparameters.mixed_precision
        ):
            features: Tensor = network(images)
        return features.float()

    def _to_device(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def _state_dict(self) -> dict[str, Any]:
        return {
            "network": self._network.state_dict(),
            "averaged": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "history": [vars(epoch) for epoch in self._history],
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self._network.load_state_dict(state["network"])
        self._average.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._best = state["best"]
        self._history = [Epoch(**epoch) for epoch in state["history"]]


def _memory_format(network: IResNet) -> torch.memory_format:
    """Return the layout in memory with which the network trains fastest."""
    # torch 2.14 crashes in the backward pass of narrower convolutions with channels last.
    if all(width % 16 == 0 for width in network.spec.widths):
        return torch.channels_last
    return torch.contiguous_format
