"""Training recipes: objective, hyperparameters and batches by name."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from services.trainer.data.arrays import FeatureArray, IndexArray
from services.trainer.data.batches import pair_batches, people_batches
from services.trainer.data.label_noise import TrainOnSubset
from services.trainer.data.pair_graph import PairGraph
from services.trainer.progress import Progress, Report, Stage
from services.trainer.training.checkpoint import NoCheckpoints
from services.trainer.training.features import compute_features
from services.trainer.training.finetuner import FacesWithParent, Finetuner, Hyperparameters
from services.trainer.training.losses import (
    CosineObjective,
    HadsellObjective,
    Margins,
    Objective,
    margins_around,
)
from services.trainer.training.replay import ReplayedFaces
from services.trainer.training.spec import TrainingRecipe, TrainingSpec
from shared.model.manifest import Manifest
from shared.model.network.iresnet import IResNet


@dataclass(frozen=True)
class RecipeFactory:
    """Makes the trainings of one job: the main one, and those that check the labels.

    Attributes:
        spec: How to train.
        parent: Manifest of the parent.
        feedback: The labelled images.
        replay: Faces to replay; see `Finetuner`.
        images_at_once: See `Hyperparameters`.
    """

    spec: TrainingSpec
    parent: Manifest
    feedback: FacesWithParent
    replay: ReplayedFaces | None
    images_at_once: int | None

    def finetuner(self, network: IResNet, graph: PairGraph, images: IndexArray) -> Finetuner:
        """Return what fine-tunes a network in place on some of the images.

        Args:
            network: A network with the parent's weights.
            graph: The labelled pairs.
            images: int64 [M], images to train on.
        """
        spec = self.spec
        match spec.recipe:
            case TrainingRecipe.COSINE:
                hyperparameters = self._hyperparameters(3e-4, averaging=0.98)
                objective: Objective = CosineObjective(
                    margins=_margins(spec, self.parent.threshold)
                )
                batches = partial(people_batches, graph, images, 2 * spec.batch_size)
                replay = self.replay
            case TrainingRecipe.HADSELL:
                hyperparameters = self._hyperparameters(1e-4, augmentation=None, weight_decay=0.0)
                objective = HadsellObjective()
                batches = partial(pair_batches, graph, images, spec.batch_size)
                replay = None
        return Finetuner(
            network,
            self.parent.channel_order,
            hyperparameters=hyperparameters,
            objective=objective,
            feedback=self.feedback,
            batches=batches,
            replay=replay,
        )

    def half_trainer(
        self, network: IResNet, workdir: Path, report: Report, start: float, end: float
    ) -> TrainOnSubset | None:
        """Return what trains a copy of the network on some people; see `label_noise`.

        It may be called twice, once for each half of the people.

        Args:
            network: A network with the parent's weights; is not changed.
            workdir: Folder for a scratch file.
            report: Called with the progress.
            start: Share of the whole work that is done before the first half.
            end: Share of the whole work that is done after the second half.

        Returns:
            None for the recipe of the seed script, which takes the labels as they are.
        """
        if self.spec.recipe is TrainingRecipe.HADSELL:
            return None
        short = replace(self, spec=replace(self.spec, epochs=max(1, self.spec.epochs // 2)))
        length = (end - start) / 2
        starts = iter((start, start + length))

        def train(graph: PairGraph, images: IndexArray) -> FeatureArray:
            begin = next(starts)
            tick = training_report(
                report, Stage.CHECKING_LABELS, "checking the labels", begin, begin + length
            )
            trained = copy.deepcopy(network)
            # There are no validation people, and without scores the last epoch is chosen.
            short.finetuner(trained, graph, images).run(
                lambda _: 0.0, NoCheckpoints(), workdir / "half.pt", tick
            )
            return compute_features(trained, self.parent.channel_order, self.feedback.crops)

        return train

    def _hyperparameters(self, learning_rate: float, **recipe: Any) -> Hyperparameters:
        return Hyperparameters(
            epochs=self.spec.epochs,
            learning_rate=self.spec.learning_rate or learning_rate,
            seed=self.spec.seed,
            mixed_precision=_supports_bfloat16(),
            images_at_once=self.images_at_once,
            **recipe,
        )


def training_report(
    report: Report, stage: Stage, message: str, start: float, end: float
) -> Callable[[float, int, float], None]:
    """Return the callback of a `Finetuner`'s steps; arguments as of `stage_report`."""

    def tick(done: float, epoch: int, loss: float) -> None:
        fraction = start + done * (end - start)
        figures = {"epoch": epoch, "loss": loss}
        report(Progress(stage, fraction, f"{message}, epoch {epoch}", figures))

    return tick


def _margins(spec: TrainingSpec, threshold: float) -> Margins:
    derived = margins_around(threshold)
    return Margins(
        derived.genuine if spec.genuine_margin is None else spec.genuine_margin,
        derived.impostor if spec.impostor_margin is None else spec.impostor_margin,
    )


def _supports_bfloat16() -> bool:
    """Tell whether the hardware multiplies matrices in bfloat16.

    Processors without such units, even those with vector instructions for bfloat16, are faster in
    float32; docs/learning.md has the figures.
    """
    return torch.cuda.is_available() or bool(torch.cpu.get_capabilities().get("amx_bf16"))
