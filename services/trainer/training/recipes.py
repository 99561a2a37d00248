"""What each recipe trains with, for a whole training and for the halves that check the labels."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from services.trainer.data.arrays import Crops, Features, Indices
from services.trainer.data.batches import pair_batches, people_batches
from services.trainer.data.label_noise import TrainOnSome
from services.trainer.data.pair_graph import PairGraph
from services.trainer.progress import Progress, Report, Stage
from services.trainer.training.checkpoint import NoState
from services.trainer.training.features import compute_features
from services.trainer.training.finetuner import Faces, Finetuner, Plan
from services.trainer.training.losses import (
    CosineObjective,
    HadsellObjective,
    Margins,
    Objective,
    margins_around,
)
from services.trainer.training.spec import Recipe, TrainingSpec
from shared.model.manifest import Manifest
from shared.model.network.iresnet import IResNet


@dataclass(frozen=True)
class Workshop:
    """What every training of one job has in common.

    Attributes:
        spec: How to train.
        parent: Manifest of the version to start from.
        feedback: The labelled images.
        replay: See `Finetuner`.
        images_at_once: See `Plan`.
    """

    spec: TrainingSpec
    parent: Manifest
    feedback: Faces
    replay: Crops | None
    images_at_once: int

    def finetuner(self, network: IResNet, graph: PairGraph, images: Indices) -> Finetuner:
        """Make what fine-tunes a network, in place, on some of the images."""
        spec = self.spec
        match spec.recipe:
            case Recipe.COSINE:
                plan = self._plan(3e-4, averaging=0.98, of_parent=0.15)
                objective: Objective = CosineObjective(
                    margins=_margins(spec, self.parent.threshold)
                )
                batches = partial(people_batches, graph, images, 2 * spec.batch_size)
                replay = self.replay
            case Recipe.HADSELL:
                plan = self._plan(1e-4, augmentation=None, weight_decay=0.0)
                objective = HadsellObjective()
                batches = partial(pair_batches, graph, images, spec.batch_size)
                replay = None
        return Finetuner(
            network,
            self.parent.channel_order,
            plan=plan,
            objective=objective,
            feedback=self.feedback,
            batches=batches,
            replay=replay,
        )

    def _plan(self, learning_rate: float, **recipe: Any) -> Plan:
        """What a recipe sets of a plan, with what the job does."""
        return Plan(
            epochs=self.spec.epochs,
            learning_rate=self.spec.learning_rate or learning_rate,
            seed=self.spec.seed,
            mixed_precision=_computes_bfloat16(),
            images_at_once=self.images_at_once,
            **recipe,
        )

    def half_training(
        self, network: IResNet, workdir: Path, report: Report, start: float, end: float
    ) -> TrainOnSome | None:
        """Give what trains a copy of the network on some people, twice; see `assessing`.

        Args:
            network: Is left as it is.
            workdir: Takes a scratch file.
            report: Takes the progress.
            start: Share of the whole work that is done before.
            end: Share that is done after the second half.

        Returns:
            None for the seed's recipe, which takes labels as they are.
        """
        if self.spec.recipe is Recipe.HADSELL:
            return None
        short = replace(self, spec=replace(self.spec, epochs=max(1, self.spec.epochs // 2)))
        half = (end - start) / 2
        starts = iter((start, start + half))

        def train(graph: PairGraph, images: Indices) -> Features:
            begin = next(starts)
            tick = training_report(
                report, Stage.CHECKING_LABELS, "checking the labels", begin, begin + half
            )
            mine = copy.deepcopy(network)
            # The last epoch is as good as any: there is nobody left to choose it by.
            short.finetuner(mine, graph, images).run(
                lambda _: 0.0, NoState(), workdir / "half.pt", tick
            )
            return compute_features(mine, self.parent.channel_order, self.feedback.crops)

        return train


def training_report(
    report: Report, stage: Stage, message: str, start: float, end: float
) -> Callable[[float, int, float], None]:
    """Make the callback of a `Finetuner`'s steps; see `stage_report`."""

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


def _computes_bfloat16() -> bool:
    """Whether the processor does so itself: where it does not, bfloat16 is slower."""
    return torch.cuda.is_available() or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
