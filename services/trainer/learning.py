"""One fine-tuning, from feedback to a judged model version."""

import copy
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from services.trainer.assessing import TrainOnSome, assess
from services.trainer.dataset import Crops, pair_batches, people_batches
from services.trainer.distributed import agreed, leads, own_device, own_threads
from services.trainer.features import Features, compute_features
from services.trainer.finetune import Epoch, Faces, Finetuner, Plan
from services.trainer.gate import decide, is_compatible
from services.trainer.judging import Judgement, Views, judge, score, separation
from services.trainer.losses import Margins, margins_around
from services.trainer.material import decode_feedback, divide_feedback, divide_reference
from services.trainer.objectives import CosineObjective, HadsellObjective
from services.trainer.pairgraph import Indices, PairGraph
from services.trainer.suspects import LabelReport
from services.trainer.training import (
    EpochState,
    FeedbackSource,
    Progress,
    Recipe,
    ReferenceFaces,
    Report,
    TrainingOutcome,
    TrainingSpec,
    stage,
)
from shared.errors import CorruptData
from shared.model.checkpoint import load_checkpoint
from shared.model.export import export_version
from shared.model.faces import FaceReader
from shared.model.iresnet import IResNet
from shared.model.manifest import WEIGHTS_FILE, Manifest, read_manifest
from shared.model.selfcheck import check_golden, golden_crops
from shared.model.session import cpu_threads, open_session
from shared.settings import ImageLimits

# Where in the whole work each stage ends.
_DECODED, _EMBEDDED, _ASSESSED, _TRAINED, _JUDGED = 0.04, 0.1, 0.35, 0.9, 0.94


def run_training(
    spec: TrainingSpec,
    *,
    feedback: FeedbackSource,
    parent: Path,
    reference: ReferenceFaces | None,
    workdir: Path,
    state: EpochState,
    report: Report,
) -> TrainingOutcome:
    """Fine-tune the version in the folder `parent` on the feedback.

    Args:
        spec: How.
        feedback: On what.
        parent: Folder of the parent's version: weights and manifest.
        reference: Faces to stay good at; None where the parent has none.
        workdir: An empty folder of this job's own; the version is made below it.
        state: Keeps the state of each finished epoch; a job started again with the
            same spec, snapshot and state gives the identical result.
        report: Takes the progress; may raise to stop.

    Raises:
        PreconditionFailed: If the feedback is too little to learn from and to judge by;
            says what is missing.
        CorruptData: If the training diverged; says at which step.
    """
    torch.set_num_threads(own_threads(cpu_threads()))
    manifest = read_manifest(parent)
    network = load_checkpoint(parent / WEIGHTS_FILE).network
    network.to(own_device())
    look = partial(compute_features, network, manifest.channel_order)
    decoded = decode_feedback(
        feedback,
        FaceReader(ImageLimits()),
        workdir / "crops.npy",
        stage(report, "decoding images", 0.0, _DECODED),
    )
    embedding = stage(report, "embedding with the parent", _DECODED, _EMBEDDED)
    before = Faces(decoded.crops, look(decoded.crops, embedding))
    faces, faces_before, replay = None, None, None
    if reference is not None:
        faces = divide_reference(reference, spec.seed)
        faces_before = Faces(faces.crops, look(faces.crops, embedding))
        replay = faces_before.only(faces.replayed)

    train_on_some = _train_on_some(
        spec, network, manifest, feedback=before, replay=replay, workdir=workdir, report=report
    )
    labels = agreed(assess(decoded.images, decoded.pairs, before.parent, train_on_some))
    material = divide_feedback(decoded.images, labels.pairs, spec.seed)
    finetuner = _finetuner(
        spec, network, manifest, material.graph, material.training, feedback=before, replay=replay
    )
    epochs = finetuner.run(
        lambda: separation(
            score(material.validation, _seen(look, decoded.crops, material.validation.images))
        ),
        state,
        workdir / "epoch.pt",
        _training_report(
            report, "training", _ASSESSED if labels.report.treated else _EMBEDDED, _TRAINED
        ),
    )

    report(Progress(_TRAINED, "judging the candidate"))
    shown = np.concatenate([material.validation.images, material.held_out.images])
    views = Views(before.parent, _seen(look, decoded.crops, shown))
    measured = None
    if faces and faces_before:
        after = _seen(look, faces.crops, faces.pairs.images)
        measured = (Views(faces_before.parent, after), faces.pairs)
    if not leads():
        sys.exit()
    judgement = judge(views, material.validation, material.held_out, measured, spec.seed)
    report(Progress(_JUDGED, "exporting the candidate"))
    return _export(
        spec,
        network,
        manifest,
        judgement=judgement,
        epochs=epochs,
        labels=labels.report,
        data_snapshot=feedback.snapshot_id,
        workdir=workdir,
    )


def _training_report(
    report: Report, message: str, start: float, end: float
) -> Callable[[float, int, float], None]:
    def tick(done: float, epoch: int, loss: float) -> None:
        fraction = start + done * (end - start)
        report(Progress(fraction, f"{message}, epoch {epoch}", {"epoch": epoch, "loss": loss}))

    return tick


class _NoState:
    """Keeps nothing: what it is for is short, and the same when it is done again."""

    def save(self, file: Path) -> None:
        del file

    def load(self, file: Path) -> bool:
        del file
        return False


def _train_on_some(
    spec: TrainingSpec,
    network: IResNet,
    manifest: Manifest,
    *,
    feedback: Faces,
    replay: Faces | None,
    workdir: Path,
    report: Report,
) -> TrainOnSome | None:
    """Half a training, which leaves the network as it is; None for the seed's recipe."""
    if spec.recipe is Recipe.HADSELL:
        return None
    short = replace(spec, epochs=max(1, spec.epochs // 2))
    half = (_ASSESSED - _EMBEDDED) / 2
    starts = iter((_EMBEDDED, _EMBEDDED + half))

    def train(graph: PairGraph, images: Indices) -> Features:
        start = next(starts)
        tick = _training_report(report, "checking the labels", start, start + half)
        mine = copy.deepcopy(network)
        finetuner = _finetuner(
            short, mine, manifest, graph, images, feedback=feedback, replay=replay
        )
        # The last epoch is as good as any: there is nobody left to choose it by.
        finetuner.run(lambda: 0.0, _NoState(), workdir / "half.pt", tick)
        return compute_features(mine, manifest.channel_order, feedback.crops)

    return train


def _seen(look: Callable[[Crops], Features], crops: Crops, images: Indices) -> Features:
    """Features at their places among all N images, and zeros for those not asked for."""
    shown = np.unique(images)
    some = look(crops[shown])
    features = np.zeros((len(crops), some.shape[1]), np.float32)
    features[shown] = some
    return features


def _finetuner(
    spec: TrainingSpec,
    network: IResNet,
    manifest: Manifest,
    graph: PairGraph,
    images: Indices,
    *,
    feedback: Faces,
    replay: Faces | None,
) -> Finetuner:
    mixed = _computes_bfloat16()
    match spec.recipe:
        case Recipe.COSINE:
            return Finetuner(
                network,
                manifest.channel_order,
                plan=Plan(
                    epochs=spec.epochs,
                    learning_rate=spec.learning_rate or 3e-4,
                    seed=spec.seed,
                    mixed_precision=mixed,
                ),
                objective=CosineObjective(margins=_margins(spec, manifest.threshold)),
                feedback=feedback,
                batches=partial(people_batches, graph, images, 2 * spec.batch_size),
                replay=replay,
            )
        case Recipe.HADSELL:
            return Finetuner(
                network,
                manifest.channel_order,
                plan=Plan(
                    epochs=spec.epochs,
                    learning_rate=spec.learning_rate or 1e-4,
                    seed=spec.seed,
                    augmentation=None,
                    weight_decay=0.0,
                    mixed_precision=mixed,
                ),
                objective=HadsellObjective(),
                feedback=feedback,
                batches=partial(pair_batches, graph, images, spec.batch_size),
                replay=None,
            )


def _margins(spec: TrainingSpec, threshold: float) -> Margins:
    derived = margins_around(threshold)
    return Margins(
        derived.genuine if spec.genuine_margin is None else spec.genuine_margin,
        derived.impostor if spec.impostor_margin is None else spec.impostor_margin,
    )


def _computes_bfloat16() -> bool:
    """Whether the processor does so itself: where it does not, bfloat16 is slower."""
    return torch.cuda.is_available() or bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _export(
    spec: TrainingSpec,
    network: IResNet,
    parent: Manifest,
    *,
    judgement: Judgement,
    epochs: list[Epoch],
    labels: LabelReport,
    data_snapshot: str,
    workdir: Path,
) -> TrainingOutcome:
    figures = judgement.figures
    name = f"{network.spec.name}-{spec.job_id[:8]}"
    folder = workdir / name
    measured = {key: float(value) for key, value in asdict(figures).items() if value is not None}
    manifest = export_version(
        network,
        folder,
        model_version=name,
        channel_order=parent.channel_order,
        threshold=judgement.threshold,
        probability=judgement.probability,
        # Quality keeps its meaning when all magnitudes move together.
        magnitude_quantiles=[
            quantile * figures.magnitude_ratio for quantile in parent.magnitude_quantiles
        ],
        golden_crops=golden_crops(parent),
        job_id=spec.job_id,
        parent_version=parent.model_version,
        data_snapshot=data_snapshot,
        compatible_versions=(parent.model_version,) if is_compatible(figures) else (),
        metrics=measured | {"images_per_second": epochs[-1].images_per_second},
    )
    gate = decide(figures, self_check=_checks(folder, manifest))
    return TrainingOutcome(folder, manifest, gate, labels)


def _checks(folder: Path, manifest: Manifest) -> bool:
    try:
        check_golden(open_session(folder), manifest)
    except CorruptData:
        return False
    return True
