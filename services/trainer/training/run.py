"""One fine-tuning, from feedback to a judged model version."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from services.trainer.data.arrays import Crops, Features, Indices
from services.trainer.data.label_noise import assess
from services.trainer.data.label_report import LabelReport
from services.trainer.data.labels import FeedbackSource
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.data.splits import (
    FeedbackMaterial,
    Pairs,
    decode_feedback,
    divide_feedback,
    divide_reference,
)
from services.trainer.evaluation.candidate_metrics import (
    Judgement,
    Views,
    goes_on_working,
    judge,
    lowest_error,
    score,
    separation,
)
from services.trainer.evaluation.gate import decide, is_compatible
from services.trainer.progress import Progress, Report, Stage, stage_report
from services.trainer.training.checkpoint import EpochState
from services.trainer.training.distributed import agreed, leads, own_device, own_threads
from services.trainer.training.features import compute_features, features_at
from services.trainer.training.finetuner import Epoch, Faces
from services.trainer.training.recipes import Workshop, training_report
from services.trainer.training.spec import TrainingOutcome, TrainingSpec
from shared.model.export import export_version
from shared.model.golden import golden_crops, passes_self_check
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import WEIGHTS_FILE, ChannelOrder, Manifest, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.network.iresnet import IResNet
from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits

# Where in the whole work each stage ends.
_DECODED, _EMBEDDED, _WATCHED, _ASSESSED, _TRAINED, _JUDGED = 0.04, 0.08, 0.1, 0.35, 0.9, 0.94

# Of faces that the parent errs more on there is little to keep: holding to what it says of them
# would keep it from learning. They are watched all the same.
_WELL_KNOWN = 0.15


def run_training(
    spec: TrainingSpec,
    *,
    feedback: FeedbackSource,
    parent: Path,
    reference: ReferenceFaces,
    workdir: Path,
    state: EpochState,
    report: Report,
    ancestors: Sequence[Path] = (),
    images_at_once: int = 72,
) -> TrainingOutcome:
    """Fine-tune the version in the folder `parent` on the feedback.

    Args:
        spec: How.
        feedback: On what.
        parent: Folder of the parent's version: weights and manifest.
        reference: Faces to stay good at.
        workdir: An empty folder of this job's own; the version is made below it.
        state: Keeps the state of each finished epoch; a job started again with the
            same spec, snapshot and state gives the identical result.
        report: Takes the progress; may raise to stop.
        ancestors: Folders of earlier versions, whose stored embeddings the parent compares
            with, and the new version should.
        images_at_once: See `Plan`.

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
        stage_report(report, Stage.DECODING_IMAGES, "decoding images", 0.0, _DECODED),
    )
    embedding = partial(stage_report, report, Stage.EMBEDDING)
    tick = embedding("embedding the feedback with the parent", _DECODED, _EMBEDDED)
    before = Faces(decoded.crops, look(decoded.crops, tick))
    watched = divide_reference(reference, spec.seed)
    tick = embedding("embedding the reference with the parent", _EMBEDDED, _WATCHED)
    watched_before = features_at(partial(look, tick=tick), watched.crops, watched.pairs.images)
    replay = None
    if lowest_error(score(watched.pairs, watched_before)) <= _WELL_KNOWN:
        replay = watched.crops[watched.replayed]
    workshop = Workshop(spec, manifest, before, replay, images_at_once)

    report(Progress(Stage.CHECKING_LABELS, _WATCHED, "checking the labels"))
    half = workshop.half_training(network, workdir, report, _WATCHED, _ASSESSED)
    labels = agreed(assess(decoded.images, decoded.pairs, before.parent, half))
    material = divide_feedback(decoded.images, labels.pairs, spec.seed)
    epochs = workshop.finetuner(network, material.graph, material.training).run(
        partial(_score_on_validation, manifest.channel_order, decoded.crops, material.validation),
        state,
        workdir / "epoch.pt",
        training_report(
            report,
            Stage.TRAINING,
            "training",
            _ASSESSED if labels.report.treated else _WATCHED,
            _TRAINED,
        ),
    )

    report(Progress(Stage.EVALUATING, _TRAINED, "judging the candidate"))
    views = Views(before.parent, features_at(look, decoded.crops, _judges(material)))
    measured = Views(watched_before, features_at(look, watched.crops, watched.pairs.images))
    if not leads():
        sys.exit()
    judgement = judge(
        views, material.validation, material.held_out, (measured, watched.pairs), spec.seed
    )
    compatible = [
        version
        for version, works in (
            (manifest.model_version, is_compatible(judgement.figures)),
            *_with_ancestors(ancestors, decoded.crops, views.child, material),
        )
        if works
    ]
    report(Progress(Stage.EXPORTING, _JUDGED, "exporting the candidate"))
    return _export(
        spec,
        network,
        manifest,
        judgement=judgement,
        compatible=compatible,
        reference=reference.sha256,
        epochs=epochs,
        labels=labels.report,
        data_snapshot=feedback.snapshot_id,
        workdir=workdir,
    )


def _score_on_validation(
    channel_order: ChannelOrder, crops: Crops, validation: Pairs, network: IResNet
) -> float:
    look = partial(compute_features, network, channel_order)
    return separation(score(validation, features_at(look, crops, validation.images)))


def _judges(material: FeedbackMaterial) -> Indices:
    """Images of the people who are not trained on."""
    return np.concatenate([material.validation.images, material.held_out.images])


def _with_ancestors(
    ancestors: Sequence[Path], crops: Crops, child: Features, material: FeedbackMaterial
) -> list[tuple[str, bool]]:
    """Whether what each earlier version has stored goes on working with the candidate."""
    found = []
    for folder in ancestors:
        manifest = read_manifest(folder)
        network = load_checkpoint(folder / WEIGHTS_FILE).network.to(own_device())
        look = partial(compute_features, network, manifest.channel_order)
        stored = features_at(look, crops, _judges(material))
        works = goes_on_working(stored, child, material.validation, material.held_out)
        found.append((manifest.model_version, works))
    return found


def _export(
    spec: TrainingSpec,
    network: IResNet,
    parent: Manifest,
    *,
    judgement: Judgement,
    compatible: Sequence[str],
    reference: str | None,
    epochs: list[Epoch],
    labels: LabelReport,
    data_snapshot: str,
    workdir: Path,
) -> TrainingOutcome:
    figures = judgement.figures
    name = f"{network.spec.name}-{spec.job_id[:8]}"
    folder = workdir / name
    measured = {key: float(value) for key, value in asdict(figures).items()}
    manifest = export_version(
        network,
        folder,
        model_version=name,
        channel_order=parent.channel_order,
        threshold=judgement.threshold,
        probability=judgement.probability,
        magnitude_quantiles=parent.scaled_quantiles(figures.magnitude_ratio),
        golden_crops=golden_crops(parent),
        job_id=spec.job_id,
        parent_version=parent.model_version,
        data_snapshot=data_snapshot,
        compatible_versions=compatible,
        reference=reference,
        metrics=measured | {"images_per_second": epochs[-1].images_per_second},
    )
    gate = decide(figures, self_check=passes_self_check(folder))
    return TrainingOutcome(folder, manifest, gate, labels)
