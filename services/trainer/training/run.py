"""A complete training: from the feedback to an exported version with its gate verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from services.trainer.data.arrays import CropArray, FeatureArray, IndexArray
from services.trainer.data.batches import DecodedFeedback
from services.trainer.data.label_noise import LabelAssessment, assess_labels
from services.trainer.data.labels import FeedbackSource
from services.trainer.data.reference_faces import ReferenceFaces, default_reference
from services.trainer.data.set_aside import images_to_replay, set_aside
from services.trainer.data.splits import (
    FeedbackSplit,
    ReferenceSplit,
    decode_feedback,
    feedback_pairs,
    split_feedback,
    split_reference,
)
from services.trainer.evaluation.candidate_figures import CandidateFigures
from services.trainer.evaluation.candidate_metrics import (
    CandidateCalibration,
    ComparedFeatures,
    MeasuredPairs,
    calibrate,
    check_groups,
    is_backward_compatible,
    judged_setting,
    lowest_balanced_error,
    measure_candidate,
    score_pairs,
)
from services.trainer.evaluation.gate import decide, is_compatible
from services.trainer.evaluation.paired_errors import area_under_roc
from services.trainer.progress import Progress, Report, Stage, stage_report
from services.trainer.training.camera import Camera
from services.trainer.training.checkpoint import CheckpointStore
from services.trainer.training.distributed import (
    broadcast,
    is_rank0,
    local_device,
    threads_per_process,
)
from services.trainer.training.features import compute_features, features_at
from services.trainer.training.finetuner import Epoch, FacesWithParent
from services.trainer.training.recipes import RecipeFactory, training_report
from services.trainer.training.replay import ReplayedFaces
from services.trainer.training.spec import TrainingOutcome, TrainingSpec
from services.trainer.training.step_back import StepBack, step_back
from services.trainer.training.weight_averaging import frozen_copy
from shared.evaluation.calibration import fit_probability
from shared.evaluation.operating_point import ScoredPeople
from shared.model.export import export_version
from shared.model.golden import golden_crops, passes_self_check
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import Manifest, read_manifest
from shared.model.network.checkpoint import load_version_network
from shared.model.network.iresnet import IResNet
from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits

# Share of the whole work that is done at the end of each stage.
_DECODED, _EMBEDDED, _REFERENCE_EMBEDDED = 0.04, 0.08, 0.1
_LABELS_CHECKED, _TRAINED, _EVALUATED = 0.35, 0.9, 0.94

# Largest error of the parent on the reference faces at which they are replayed. With a larger one
# there is little to keep, and replay would only slow the learning. The gate measures them anyway.
_MAX_REPLAY_ERROR = 0.15


def run_training(
    spec: TrainingSpec,
    *,
    feedback: FeedbackSource,
    parent: Path,
    reference: ReferenceFaces | None,
    workdir: Path,
    checkpoints: CheckpointStore,
    report: Report,
    reference_note: str = "",
    ancestors: Sequence[Path] = (),
    images_at_once: int | None = None,
) -> TrainingOutcome | None:
    """Fine-tune a version on the feedback, evaluate the result and export it.

    With several processes, each of them calls this; see `distributed`.

    Args:
        spec: How to train.
        feedback: Labelled pairs and images.
        parent: Folder of the parent version.
        reference: Faces on which the new version must not be worse; None sets people of the
            feedback aside, or takes rendered people.
        workdir: An empty folder of this process; the version's folder is made in it.
        checkpoints: Stores a checkpoint after each epoch. A training that starts again with the
            same spec, snapshot and checkpoints gives the identical result.
        report: Called with the progress; may raise to stop the training.
        reference_note: See `Manifest`; for given reference faces.
        ancestors: Folders of earlier versions whose stored embeddings can be compared with the
            parent's. The new version is checked against them.
        images_at_once: See `Hyperparameters`.

    Returns:
        The outcome on rank 0, None on every other process.

    Raises:
        PreconditionFailed: If the feedback shows too few people; the message gives the numbers.
        CorruptData: If the training diverges; the message names the step.
    """
    torch.set_num_threads(threads_per_process(cpu_threads()))
    inputs = _read_inputs(
        parent,
        feedback,
        reference or default_reference(),
        workdir=workdir,
        seed=spec.seed,
        report=report,
    )
    recipes = RecipeFactory(
        spec, inputs.manifest, inputs.faces, _faces_to_replay(inputs, spec.seed), images_at_once
    )
    left_out = inputs.decoded.left_out
    with left_out.named_in_refusals():
        labels = _check_labels(recipes, inputs, workdir, report)
        split = split_feedback(inputs.decoded.images, labels.pairs, spec.seed, inputs.decoded.burst)
    if reference is None:
        own = _keep_from_feedback(inputs, split, spec.seed)
        inputs, split, reference_note = own.inputs, own.split, own.note
        if own.replayed is not None:
            recipes = replace(recipes, replay=own.replayed)
        report(Progress(Stage.CHECKING_LABELS, _checked(labels), reference_note))
    untrained = frozen_copy(inputs.network)
    epochs = recipes.finetuner(inputs.network, split.graph, split.training).run(
        _validation_score(inputs, split),
        checkpoints,
        workdir / "epoch.pt",
        training_report(
            report,
            Stage.TRAINING,
            "training",
            _checked(labels),
            _TRAINED,
        ),
    )
    report(Progress(Stage.EVALUATING, _TRAINED, "evaluating the candidate"))
    kept = step_back(
        inputs.network,
        untrained,
        lambda network: inputs.features(network, split.validation.images),
        split.validation,
        target_fmr=spec.target_fmr,
        seed=spec.seed,
    )
    report(Progress(Stage.EVALUATING, _TRAINED, kept.describe()))
    held_out, faces = _measured_pairs(inputs, split)
    # Computing features is collective, so the other processes may leave only after it.
    stored = _stored_features(ancestors, inputs.decoded.crops, split)
    if not is_rank0():
        return None
    calibration = calibrate(split.validation, held_out, faces, spec.seed)
    setting = judged_setting(
        held_out,
        faces,
        parent=inputs.manifest,
        child=calibration,
        target_fmr=spec.target_fmr,
        seed=spec.seed,
    )
    figures = measure_candidate(held_out, faces, setting, split.validation)
    compatible = [inputs.manifest.model_version] if is_compatible(figures) else []
    compatible += [
        version
        for version, features in stored
        if is_backward_compatible(features, held_out, split.validation, setting)
    ]
    report(Progress(Stage.EXPORTING, _EVALUATED, "exporting the candidate"))
    folder = workdir / f"{inputs.network.spec.name}-{spec.job_id[:8]}"
    manifest = _export(
        spec,
        inputs,
        folder,
        calibration=calibration,
        figures=figures,
        compatible=compatible,
        reference=reference.sha256 if reference else None,
        reference_note=reference_note,
        epochs=epochs,
        kept=kept,
        data_snapshot=feedback.snapshot_id,
    )
    gate = decide(
        figures,
        self_check=passes_self_check(folder),
        further=check_groups(inputs.reference.groups, faces, setting),
        within_chance=kept.within_chance,
    )
    held_out_images = tuple(inputs.decoded.images[image] for image in split.held_out_images)
    label_report = replace(labels.report, left_out=left_out.listed, held_out=held_out_images)
    return TrainingOutcome(folder, manifest, gate, label_report, left_out)


@dataclass(frozen=True)
class _Inputs:
    """What the training starts from.

    Attributes:
        manifest: The parent's manifest.
        network: The parent's network, which is then trained in place.
        decoded: Images and labels of the feedback.
        faces: The feedback's crops, and their features under the parent.
        reference: The reference faces.
        reference_features: float32 [N, D], their features under the parent; zeros for faces
            that are in no pair.
    """

    manifest: Manifest
    network: IResNet
    decoded: DecodedFeedback
    faces: FacesWithParent
    reference: ReferenceSplit
    reference_features: FeatureArray

    def extract(self, crops: CropArray) -> FeatureArray:
        """Compute features under the network as it is now."""
        return compute_features(self.network, self.manifest.channel_order, crops)

    def features(self, network: IResNet, images: IndexArray) -> FeatureArray:
        """Compute a network's features of some images of the feedback; see `features_at`."""
        extract = partial(compute_features, network, self.manifest.channel_order)
        return features_at(extract, self.decoded.crops, images)


def _read_inputs(
    parent: Path,
    feedback: FeedbackSource,
    reference: ReferenceFaces,
    *,
    workdir: Path,
    seed: int,
    report: Report,
) -> _Inputs:
    manifest = read_manifest(parent)
    network = _load_network(parent)
    extract = partial(compute_features, network, manifest.channel_order)
    decoded = decode_feedback(
        feedback,
        FaceReader(ImageLimits()),
        workdir / "crops.npy",
        stage_report(report, Stage.DECODING_IMAGES, "decoding images", 0.0, _DECODED),
    )
    embedding = partial(stage_report, report, Stage.EMBEDDING)
    tick = embedding("embedding the feedback with the parent", _DECODED, _EMBEDDED)
    faces = FacesWithParent(decoded.crops, extract(decoded.crops, tick))
    split = split_reference(reference, seed)
    tick = embedding("embedding the reference with the parent", _EMBEDDED, _REFERENCE_EMBEDDED)
    features = features_at(partial(extract, tick=tick), split.crops, split.pairs.images)
    return _Inputs(manifest, network, decoded, faces, split, features)


def _load_network(folder: Path) -> IResNet:
    return load_version_network(folder).to(local_device())


def _faces_to_replay(inputs: _Inputs, seed: int) -> ReplayedFaces | None:
    reference = inputs.reference
    scores = score_pairs(reference.pairs, inputs.reference_features)
    if lowest_balanced_error(scores) > _MAX_REPLAY_ERROR:
        return None
    return _replay(inputs, reference.crops[reference.replayed], seed)


def _replay(inputs: _Inputs, faces: CropArray, seed: int) -> ReplayedFaces:
    return ReplayedFaces(faces, Camera.learn(inputs.decoded.crops, faces, seed))


@dataclass(frozen=True)
class _KeptFromFeedback:
    """A training whose reference and replayed faces are from the feedback, as far as they are.

    Attributes:
        inputs: With the people set aside as reference, or the reference as it was.
        split: Without the people set aside.
        replayed: Images to replay; None for no others than before.
        note: What the reference and the replayed faces are; see `Manifest`.
    """

    inputs: _Inputs
    split: FeedbackSplit
    replayed: ReplayedFaces | None
    note: str


def _keep_from_feedback(inputs: _Inputs, split: FeedbackSplit, seed: int) -> _KeptFromFeedback:
    """Take what the candidate must keep from the feedback, if the parent knows these people."""
    parent, crops = inputs.faces.parent, inputs.decoded.crops
    scores = score_pairs(feedback_pairs(split.graph, split.training, seed), parent)
    rendered = "rendered people, in place of reference faces"
    error = lowest_balanced_error(scores)
    if error > _MAX_REPLAY_ERROR:
        note = f"{rendered}; the parent errs on {error:.1%} of the feedback, too much to keep it"
        return _KeptFromFeedback(inputs, split, None, note)
    aside = set_aside(split.graph, split.training, seed)
    threshold = fit_probability(scores).even
    images = images_to_replay(split.graph, aside.training, parent, threshold, seed)
    measured = rendered
    if aside.pairs is not None:
        measured = f"{aside.people} people set aside from the feedback"
        own = ReferenceSplit(crops, images, aside.pairs)
        inputs = replace(inputs, reference=own, reference_features=parent)
    note = f"{measured}; {len(images)} images of the feedback are held to the parent's embeddings"
    split = replace(split, training=aside.training)
    replayed = _replay(inputs, crops[images], seed) if len(images) else None
    return _KeptFromFeedback(inputs, split, replayed, note)


def _checked(labels: LabelAssessment) -> float:
    """Return the share of the work that is done when the labels are checked."""
    return _LABELS_CHECKED if labels.report.treated else _REFERENCE_EMBEDDED


def _check_labels(
    recipes: RecipeFactory, inputs: _Inputs, workdir: Path, report: Report
) -> LabelAssessment:
    report(Progress(Stage.CHECKING_LABELS, _REFERENCE_EMBEDDED, "checking the labels"))
    trainer = recipes.half_trainer(
        inputs.network, workdir, report, _REFERENCE_EMBEDDED, _LABELS_CHECKED
    )
    decoded = inputs.decoded
    assessment = assess_labels(
        decoded.images,
        decoded.pairs,
        inputs.faces.parent,
        trainer,
        burst=decoded.burst,
        threshold=inputs.manifest.threshold,
    )
    return broadcast(assessment)


def _validation_score(inputs: _Inputs, split: FeedbackSplit) -> Callable[[IResNet], float]:
    """Return what computes a network's AUC on the validation pairs."""

    def score(network: IResNet) -> float:
        features = inputs.features(network, split.validation.images)
        scores = score_pairs(split.validation, features)
        return area_under_roc(ScoredPeople.of(scores, split.validation.people))

    return score


def _measured_pairs(inputs: _Inputs, split: FeedbackSplit) -> tuple[MeasuredPairs, MeasuredPairs]:
    """Compute the trained network's features of the feedback and of the reference faces.

    Returns:
        The held-out pairs, with features of the validation people as well, and the reference.
    """
    reference = inputs.reference
    feedback = ComparedFeatures(
        inputs.faces.parent, inputs.features(inputs.network, _evaluated_images(split))
    )
    faces = ComparedFeatures(
        inputs.reference_features,
        features_at(inputs.extract, reference.crops, reference.pairs.images),
    )
    return MeasuredPairs(feedback, split.held_out), MeasuredPairs(faces, reference.pairs)


def _evaluated_images(split: FeedbackSplit) -> IndexArray:
    """Images of the people who are not trained on, int64 [P, 2]."""
    return np.concatenate([split.validation.images, split.held_out.images])


def _stored_features(
    ancestors: Sequence[Path], crops: CropArray, split: FeedbackSplit
) -> list[tuple[str, FeatureArray]]:
    """Compute the features of earlier versions, by their names."""
    stored = []
    for folder in ancestors:
        manifest = read_manifest(folder)
        extract = partial(compute_features, _load_network(folder), manifest.channel_order)
        features = features_at(extract, crops, _evaluated_images(split))
        stored.append((manifest.model_version, features))
    return stored


def _export(
    spec: TrainingSpec,
    inputs: _Inputs,
    folder: Path,
    *,
    calibration: CandidateCalibration,
    figures: CandidateFigures,
    compatible: Sequence[str],
    reference: str | None,
    reference_note: str,
    epochs: list[Epoch],
    kept: StepBack,
    data_snapshot: str,
) -> Manifest:
    parent = inputs.manifest
    return export_version(
        inputs.network,
        folder,
        model_version=folder.name,
        channel_order=parent.channel_order,
        threshold=calibration.threshold,
        probability=calibration.probability,
        operating_curve=calibration.curve,
        magnitude_quantiles=parent.scaled_quantiles(figures.magnitude_ratio),
        golden_crops=golden_crops(parent),
        job_id=spec.job_id,
        parent_version=parent.model_version,
        data_snapshot=data_snapshot,
        compatible_versions=compatible,
        reference=reference,
        reference_note=reference_note,
        metrics=figures.metrics()
        | {
            "images_per_second": epochs[-1].images_per_second,
            "parent_share": kept.share,
            "validation_gain": kept.gain,
            "validation_noise": kept.noise,
        },
    )
