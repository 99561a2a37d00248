"""Quantization: makes the eight-bit form of a version, and evaluates it beside the full one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from services.trainer.data.arrays import CropArray, FeatureArray, IndexArray
from services.trainer.data.batches import decode_labelled, measured_pairs
from services.trainer.data.labels import FeedbackSource
from services.trainer.data.left_out import LeftOut
from services.trainer.data.pair_graph import links_of
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.data.splits import (
    EvaluationPairs,
    ReferenceSplit,
    reference_pairs,
    split_reference,
)
from services.trainer.evaluation.candidate_figures import Change
from services.trainer.evaluation.candidate_metrics import (
    ComparedFeatures,
    MeasuredPairs,
    balanced_error,
    compare_groups,
    compare_magnitudes,
    score_pairs,
)
from services.trainer.evaluation.gate import GateVerdict, within_compatibility_limit
from services.trainer.evaluation.group_gate import group_checks
from services.trainer.evaluation.paired_errors import (
    ComparedScores,
    ServedThresholds,
    balanced_errors,
    false_matches,
    false_non_matches,
)
from services.trainer.evaluation.quantized_gate import (
    QuantizedAtPoint,
    QuantizedFigures,
    decide_quantized,
)
from services.trainer.progress import Progress, Report, Stage, stage_report
from services.trainer.training.features import features_at
from shared.evaluation.scores import pair_similarity
from shared.model.golden import passes_self_check
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import ONNX_FILE, Manifest, ProbabilityCurve, read_manifest
from shared.model.operating_curve import OperatingCurve
from shared.model.quantize import quantize_network, write_quantized_version
from shared.model.sessions.base import Session, split_features
from shared.model.sessions.factory import open_session
from shared.model.sessions.onnx import open_network
from shared.settings import ImageLimits

# More faces changed no activation range that mattered.
_CALIBRATION_FACES = 128
_SEED = 0
_BATCH_SIZE = 32
# Share of the whole work that is done at the end of each stage.
_DECODED, _QUANTIZED, _REFERENCE, _FEEDBACK = 0.1, 0.4, 0.6, 0.9


@dataclass(frozen=True)
class QuantizedVersion:
    """A version, ready to publish.

    Attributes:
        folder: Its files.
        gate: The gate's verdict.
        left_out: What of the feedback could not be used.
    """

    folder: Path
    gate: GateVerdict
    left_out: LeftOut


@dataclass(frozen=True)
class _LabelledCrops:
    """The feedback's labelled pairs.

    Attributes:
        crops: uint8 [N, 112, 112, 3], BGR.
        links: int64 [P, 2], positions of the pairs' images.
        same: bool [P], the labels.
        left_out: What of the feedback cannot be used.
    """

    crops: CropArray
    links: IndexArray
    same: NDArray[np.bool_]
    left_out: LeftOut


@dataclass(frozen=True)
class _Network:
    """One of the two versions: its network and its threshold."""

    session: Session
    threshold: float

    def extract(self, crops: CropArray) -> FeatureArray:
        """Compute features; raises CorruptData if one of them is not usable."""
        return extract_features(self.session, crops)


@dataclass(frozen=True)
class _ReferenceFeatures:
    """Reference faces that the quantized version was not calibrated on, under both versions.

    Attributes:
        crops: uint8 [N, 112, 112, 3], BGR.
        pairs: Pairs to measure on.
        full: float32 [N, D], the full version's features; zeros for crops that are in no pair.
        quantized: float32 [N, D], the same of the quantized version.
        full_threshold: Threshold of the full version.
        quantized_threshold: Threshold of the quantized version.
    """

    crops: CropArray
    pairs: EvaluationPairs
    full: FeatureArray
    quantized: FeatureArray
    full_threshold: float
    quantized_threshold: float

    @cached_property
    def compared(self) -> ComparedScores:
        return MeasuredPairs(ComparedFeatures(self.full, self.quantized), self.pairs).compared()

    @cached_property
    def errors(self) -> Change:
        """Mean of FNMR and FMR of the full and of the quantized version."""
        thresholds = ServedThresholds(self.full_threshold, self.quantized_threshold)
        return balanced_errors(self.compared, thresholds, _SEED)

    def mixed_error(self, stored: FeatureArray) -> float:
        """Error on pairs of a quantized embedding and a stored one, given its features."""
        return balanced_error(
            score_pairs(self.pairs, self.quantized, stored), self.quantized_threshold
        )


def quantize_version(
    parent: Path,
    job_id: UUID,
    *,
    reference: ReferenceFaces,
    feedback: FeedbackSource,
    workdir: Path,
    report: Report,
    ancestors: Sequence[Path] = (),
    target_fmr: float | None = None,
) -> QuantizedVersion:
    """Quantize a version: calibrate on half of the reference's people, evaluate on the others.

    The quantized similarities are close to a linear function of the full version's. The function
    is fitted on the people of the calibration and maps the threshold, the operating curve and the
    probability. The gate measures what the mapped threshold does on the other people.

    Args:
        parent: Folder of the full version.
        job_id: Part of the new version's name.
        reference: Reference faces.
        feedback: Labelled pairs to evaluate on as well; there may be none.
        workdir: An empty folder of this job; the version's folder is made in it.
        report: Called with the progress.
        ancestors: Folders of earlier versions whose stored embeddings can be compared with the
            full version's. The new version is checked against them.
        target_fmr: The operator's target false-match rate; None for none.

    Raises:
        CorruptData: If a network outputs NaN or zero.
    """
    manifest = read_manifest(parent)
    tick = stage_report(report, Stage.DECODING_IMAGES, "decoding images", 0, _DECODED)
    labelled = _read_feedback(feedback, workdir, tick)
    split = split_reference(reference, _SEED)
    report(Progress(Stage.QUANTIZING, _DECODED, "quantizing"))
    network = _quantize_network(parent, manifest, split, workdir)
    sessions = open_session(parent), open_network(network, manifest)

    report(Progress(Stage.CALIBRATING, _QUANTIZED, "calibrating the threshold"))
    line = _fit_similarity(*sessions, reference, split.replayed)
    threshold = float(np.clip(line(manifest.threshold), -1, 1))
    full, quantized = _Network(sessions[0], manifest.threshold), _Network(sessions[1], threshold)

    measuring = partial(stage_report, report, Stage.EVALUATING)
    tick = measuring("measuring on the reference", _QUANTIZED, _REFERENCE)
    measured = _measure_reference(full, quantized, split, tick)
    tick = measuring("measuring on the feedback", _REFERENCE, _FEEDBACK)
    figures = _figures(measured, labelled, _wrong_shares(labelled, full, quantized, tick))
    compatible = _compatible_versions(manifest, ancestors, measured)

    report(Progress(Stage.EXPORTING, _FEEDBACK, "exporting the eight-bit version"))
    made = write_quantized_version(
        parent,
        network,
        workdir / f"{manifest.architecture}-int8-{job_id.hex[:8]}",
        manifest,
        parent_version=manifest.model_version,
        job_id=str(job_id),
        created_at=datetime.now(UTC),
        threshold=threshold,
        probability=_map_probability(manifest.probability, line),
        operating_curve=_map_curve(manifest.operating_curve, line),
        compatible_versions=compatible,
        reference=reference.sha256,
        magnitude_quantiles=manifest.scaled_quantiles(figures.magnitude_ratio),
        metrics=figures.metrics(),
    )
    folder = workdir / made.model_version
    at_point = _measure_point(manifest, made, measured, target_fmr)
    groups = group_checks(
        compare_groups(
            reference.groups, measured.pairs, ComparedFeatures(measured.full, measured.quantized)
        ),
        thresholds=ServedThresholds(full.threshold, quantized.threshold),
        at_target=False,
        seed=_SEED,
    )
    gate = decide_quantized(
        figures, self_check=passes_self_check(folder), at_point=at_point, further=groups
    )
    return QuantizedVersion(folder, gate, labelled.left_out)


def _read_feedback(
    feedback: FeedbackSource, workdir: Path, tick: Callable[[float], None]
) -> _LabelledCrops:
    decoded = decode_labelled(feedback, FaceReader(ImageLimits()), workdir / "crops.npy", tick)
    pairs, left_out = measured_pairs(decoded)
    same = np.array([pair.same for pair in pairs], np.bool_)
    return _LabelledCrops(decoded.crops, links_of(decoded.images, pairs), same, left_out)


def _quantize_network(
    parent: Path, manifest: Manifest, split: ReferenceSplit, workdir: Path
) -> Path:
    """Write the quantized network, calibrated on faces of the first half of the people."""
    network = workdir / ONNX_FILE
    chosen = np.random.default_rng(_SEED).permutation(split.replayed)[:_CALIBRATION_FACES]
    quantize_network(parent / ONNX_FILE, manifest, split.crops[chosen], network)
    return network


def _fit_similarity(
    full: Session, quantized: Session, reference: ReferenceFaces, images: IndexArray
) -> Polynomial:
    """Fit the quantized version's similarity of a pair as a linear function of the full one's."""
    pairs = reference_pairs(reference.persons, images, _SEED)
    before, after = (
        score_pairs(
            pairs, features_at(partial(extract_features, session), reference.crops, images)
        ).similarity
        for session in (full, quantized)
    )
    line: Polynomial = Polynomial.fit(before, after, 1).convert()
    return line


def _map_probability(
    probability: ProbabilityCurve | None, line: Polynomial
) -> ProbabilityCurve | None:
    if probability is None:
        return None
    at_zero, at_one = (float(value) for value in line(np.array([0.0, 1.0])))
    slope = probability.slope / (at_one - at_zero)
    return ProbabilityCurve(slope=slope, intercept=probability.intercept - slope * at_zero)


def _map_curve(curve: OperatingCurve | None, line: Polynomial) -> OperatingCurve | None:
    """Map the thresholds of the full version's curve; no pair is refused at the first of them."""
    if curve is None:
        return None
    mapped = np.clip(line(np.array([point.threshold for point in curve.points])), -1.01, 1.01)
    mapped[0] = min(curve.points[0].threshold, mapped[0])
    points = tuple(
        point.model_copy(update={"threshold": float(threshold)})
        for point, threshold in zip(curve.points, mapped, strict=True)
    )
    return OperatingCurve(points=points, impostor=curve.impostor, genuine=curve.genuine)


def _measure_point(
    full: Manifest, quantized: Manifest, measured: _ReferenceFeatures, target_fmr: float | None
) -> QuantizedAtPoint | None:
    """Measure both versions at the operating point; None without one."""
    before, after = full.kept_point(target_fmr), quantized.kept_point(target_fmr)
    if target_fmr is None or before is None or after is None:
        return None
    served = ServedThresholds(before.threshold, after.threshold)
    return QuantizedAtPoint(
        target_fmr,
        max(before.target, target_fmr),
        false_matches(measured.compared, served, _SEED),
        false_non_matches(measured.compared, served, _SEED),
    )


def _measure_reference(
    full: _Network, quantized: _Network, split: ReferenceSplit, tick: Callable[[float], None]
) -> _ReferenceFeatures:
    images = split.pairs.images
    full_features = features_at(full.extract, split.crops, images)
    tick(0.5)
    return _ReferenceFeatures(
        split.crops,
        split.pairs,
        full_features,
        features_at(quantized.extract, split.crops, images),
        full.threshold,
        quantized.threshold,
    )


def _wrong_shares(
    labelled: _LabelledCrops,
    full: _Network,
    quantized: _Network,
    tick: Callable[[float], None],
) -> tuple[float, float]:
    """Share of the labelled pairs that the full and the quantized version decide wrongly."""
    if not len(labelled.same):
        return 0.0, 0.0
    full_share = _wrong_share(labelled, full)
    tick(0.5)
    return full_share, _wrong_share(labelled, quantized)


def _wrong_share(labelled: _LabelledCrops, network: _Network) -> float:
    images = np.unique(labelled.links)
    features = features_at(network.extract, labelled.crops, images)
    embeddings = np.zeros_like(features)
    embeddings[images], _ = split_features(features[images])
    similarity = pair_similarity(embeddings, labelled.links)
    return float(((similarity >= network.threshold) != labelled.same).mean())


def _figures(
    measured: _ReferenceFeatures,
    labelled: _LabelledCrops,
    wrong_shares: tuple[float, float],
) -> QuantizedFigures:
    images = np.unique(measured.pairs.images)
    (before, _), (after, _) = (
        split_features(features[images]) for features in (measured.full, measured.quantized)
    )
    cosine = np.einsum("nd,nd->n", before, after, dtype=np.float64)
    ratio, order = compare_magnitudes(measured.quantized[images], measured.full[images])
    return QuantizedFigures(
        reference=measured.errors,
        mixed_error=measured.mixed_error(measured.full),
        feedback_pairs=len(labelled.same),
        feedback_full_error=wrong_shares[0],
        feedback_quantized_error=wrong_shares[1],
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
        magnitude_ratio=ratio,
        magnitude_order=order,
    )


def _compatible_versions(
    manifest: Manifest, ancestors: Sequence[Path], measured: _ReferenceFeatures
) -> tuple[str, ...]:
    """Name the versions whose stored embeddings can be compared with the quantized version's.

    Args:
        manifest: The full version's.
        ancestors: Folders of earlier versions.
        measured: Features of the full and of the quantized version.
    """
    stored = [
        (manifest.model_version, measured.full),
        *(_stored_features(folder, measured) for folder in ancestors),
    ]
    return tuple(
        version
        for version, features in stored
        if within_compatibility_limit(
            mixed_error=measured.mixed_error(features), stored_error=measured.errors.before
        )
    )


def _stored_features(folder: Path, measured: _ReferenceFeatures) -> tuple[str, FeatureArray]:
    extract = partial(extract_features, open_session(folder))
    features = features_at(extract, measured.crops, measured.pairs.images)
    return read_manifest(folder).model_version, features


def extract_features(session: Session, crops: CropArray) -> FeatureArray:
    """Compute features with a session, float32 [N, D], not normalised.

    Args:
        session: The network.
        crops: uint8 [N, 112, 112, 3], BGR.

    Raises:
        CorruptData: If one of them is not usable.
    """
    batches = (crops[start : start + _BATCH_SIZE] for start in range(0, len(crops), _BATCH_SIZE))
    features = np.concatenate([session.run(batch) for batch in batches])
    split_features(features)  # raises CorruptData for features that are not usable
    return features
