"""Makes the eight-bit form of a version, and measures it beside the full one."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import Crops, Features, Indices
from services.trainer.data.batches import decode_once
from services.trainer.data.labels import FeedbackSource, images_of
from services.trainer.data.pair_graph import links_of, usable_pairs
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.data.splits import Pairs, ReferenceMaterial, divide_reference, reference_pairs
from services.trainer.evaluation.candidate_metrics import error, magnitude_figures, score
from services.trainer.evaluation.gate import GateVerdict, compares
from services.trainer.evaluation.quantized_gate import QuantizedFigures, decide_quantized
from services.trainer.progress import Progress, Report, Stage, stage_report
from services.trainer.training.features import features_at
from shared.evaluation.scores import pair_similarity
from shared.model.golden import passes_self_check
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import ONNX_FILE, ProbabilityCurve, read_manifest
from shared.model.quantize import quantize_network, write_quantized_version
from shared.model.sessions.base import Session, split_features
from shared.model.sessions.factory import open_session
from shared.model.sessions.onnx import open_network
from shared.settings import ImageLimits

# More of them moved no range that mattered.
_CALIBRATION_FACES = 128
_SEED = 0
_BATCH = 32
# Where in the whole work each stage ends.
_DECODED, _QUANTIZED, _REFERENCE, _FEEDBACK = 0.1, 0.4, 0.6, 0.9


@dataclass(frozen=True)
class Quantized:
    """A version's folder, ready to publish, and the verdict on it."""

    folder: Path
    gate: GateVerdict


@dataclass(frozen=True)
class _Labelled:
    """The feedback's pairs: crops of N images, int64 [P, 2] places among them, bool [P]."""

    crops: Crops
    links: Indices
    same: NDArray[np.bool_]


@dataclass(frozen=True)
class _Watched:
    """Reference faces that neither version was calibrated on, as both see them.

    Features are float32 [N, D], zeros for crops that are in no pair; thresholds are the full
    version's and the quantized one's.
    """

    crops: Crops
    pairs: Pairs
    full: Features
    quantized: Features
    thresholds: tuple[float, float]


def quantize_version(
    parent: Path,
    job_id: UUID,
    *,
    reference: ReferenceFaces,
    feedback: FeedbackSource,
    workdir: Path,
    report: Report,
    ancestors: Sequence[Path] = (),
) -> Quantized:
    """Quantize a version, calibrated on half of the reference's people and judged on the others.

    The similarities that it gives lie along a line over the full version's; the threshold and
    the probability are moved along that line, as it runs on the people of the calibration.

    Args:
        parent: Folder of the version.
        job_id: The new version is named for it.
        reference: Faces.
        feedback: Labelled pairs to judge on besides; may be empty.
        workdir: An empty folder of this job's own; the version is made below it.
        report: Takes the progress.
        ancestors: Folders of versions whose stored embeddings the full version compares with.

    Raises:
        CorruptData: If a network gives NaN or nothing.
    """
    manifest = read_manifest(parent)
    tick = stage_report(report, Stage.DECODING_IMAGES, "decoding images", 0, _DECODED)
    labelled = _read_feedback(feedback, workdir, tick)
    divided = divide_reference(reference, _SEED)
    report(Progress(Stage.QUANTIZING, _DECODED, "quantizing"))
    network = workdir / ONNX_FILE
    shown = np.random.default_rng(_SEED).permutation(divided.replayed)[:_CALIBRATION_FACES]
    quantize_network(parent / ONNX_FILE, manifest, divided.crops[shown], network)
    full, quantized = open_session(parent), open_network(network, manifest)

    report(Progress(Stage.CALIBRATING, _QUANTIZED, "calibrating the threshold"))
    line = _line(full, quantized, reference, divided.replayed)
    threshold = float(np.clip(line(manifest.threshold), -1, 1))
    thresholds = (manifest.threshold, threshold)
    measuring = partial(stage_report, report, Stage.EVALUATING)
    tick = measuring("measuring on the reference", _QUANTIZED, _REFERENCE)
    watched = _watch((full, quantized), thresholds, divided, tick)
    tick = measuring("measuring on the feedback", _REFERENCE, _FEEDBACK)
    wrong = _wrong_shares(labelled, (full, quantized), thresholds, tick)
    figures = _measure(watched, len(labelled.same) if labelled else 0, wrong)
    stored = [(manifest.model_version, watched.full), *_stored(ancestors, watched)]
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
        probability=_moved(manifest.probability, line),
        compatible_versions=tuple(name for name, old in stored if _works_with(watched, old)),
        reference=reference.sha256,
        magnitude_quantiles=manifest.scaled_quantiles(figures.magnitude_ratio),
        metrics={name: float(value) for name, value in asdict(figures).items()},
    )
    folder = workdir / made.model_version
    return Quantized(folder, decide_quantized(figures, self_check=passes_self_check(folder)))


def _read_feedback(
    feedback: FeedbackSource, workdir: Path, tick: Callable[[float], None]
) -> _Labelled | None:
    pairs = list(feedback.pairs())
    if not pairs:
        return None
    named = sorted(images_of(pairs))
    file = workdir / "crops.npy"
    images, crops = decode_once(named, feedback, FaceReader(ImageLimits()), file, tick)
    usable = usable_pairs(images, pairs)
    if not usable:
        return None
    return _Labelled(crops, links_of(images, usable), np.array([pair.same for pair in usable]))


def _line(
    full: Session, quantized: Session, reference: ReferenceFaces, shown: Indices
) -> np.polynomial.Polynomial:
    """The quantized version's similarity of a pair over the full one's, as a straight line."""
    pairs = reference_pairs(reference.persons, shown, _SEED)
    before, after = (
        score(pairs, features_at(partial(_look, session), reference.crops, shown)).similarity
        for session in (full, quantized)
    )
    line: np.polynomial.Polynomial = np.polynomial.Polynomial.fit(before, after, 1).convert()
    return line


def _moved(
    probability: ProbabilityCurve | None, line: np.polynomial.Polynomial
) -> ProbabilityCurve | None:
    if probability is None:
        return None
    start, rise = (float(value) for value in line(np.array([0.0, 1.0])))
    rise -= start
    slope = probability.slope / rise
    return ProbabilityCurve(slope=slope, intercept=probability.intercept - slope * start)


def _watch(
    sessions: tuple[Session, Session],
    thresholds: tuple[float, float],
    divided: ReferenceMaterial,
    tick: Callable[[float], None],
) -> _Watched:
    shown = divided.pairs.images
    full = features_at(partial(_look, sessions[0]), divided.crops, shown)
    tick(0.5)
    quantized = features_at(partial(_look, sessions[1]), divided.crops, shown)
    return _Watched(divided.crops, divided.pairs, full, quantized, thresholds)


def _look(session: Session, crops: Crops) -> Features:
    """Features of crops; none of them is unusable."""
    batches = (crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH))
    features = np.concatenate([session.run(batch) for batch in batches])
    split_features(features)
    return features


def _measure(
    watched: _Watched, feedback_pairs: int, wrong: tuple[float, float]
) -> QuantizedFigures:
    pairs = watched.pairs
    shown = np.unique(pairs.images)
    (before, _), (after, _) = (
        split_features(features[shown]) for features in (watched.full, watched.quantized)
    )
    cosine = np.einsum("nd,nd->n", before, after, dtype=np.float64)
    ratio, order = magnitude_figures(watched.quantized[shown], watched.full[shown])
    return QuantizedFigures(
        full_error=_full_error(watched),
        quantized_error=error(score(pairs, watched.quantized), watched.thresholds[1]),
        mixed_error=_mixed_error(watched, watched.full),
        feedback_pairs=feedback_pairs,
        feedback_full_error=wrong[0],
        feedback_quantized_error=wrong[1],
        cosine_mean=float(cosine.mean()),
        cosine_min=float(cosine.min()),
        magnitude_ratio=ratio,
        magnitude_order=order,
    )


def _full_error(watched: _Watched) -> float:
    return error(score(watched.pairs, watched.full), watched.thresholds[0])


def _mixed_error(watched: _Watched, stored: Features) -> float:
    return error(score(watched.pairs, watched.quantized, stored), watched.thresholds[1])


def _wrong_shares(
    labelled: _Labelled | None,
    sessions: tuple[Session, Session],
    thresholds: tuple[float, float],
    tick: Callable[[float], None],
) -> tuple[float, float]:
    if labelled is None:
        return 0.0, 0.0
    full = _share_wrong(labelled, sessions[0], thresholds[0])
    tick(0.5)
    return full, _share_wrong(labelled, sessions[1], thresholds[1])


def _share_wrong(labelled: _Labelled, session: Session, threshold: float) -> float:
    shown = np.unique(labelled.links)
    features = features_at(partial(_look, session), labelled.crops, shown)
    embeddings = np.zeros_like(features)
    embeddings[shown], _ = split_features(features[shown])
    similarity = pair_similarity(embeddings, labelled.links)
    return float(((similarity >= threshold) != labelled.same).mean())


def _stored(ancestors: Sequence[Path], watched: _Watched) -> list[tuple[str, Features]]:
    """What each earlier version would have stored of the reference faces."""
    return [
        (
            read_manifest(folder).model_version,
            features_at(partial(_look, open_session(folder)), watched.crops, watched.pairs.images),
        )
        for folder in ancestors
    ]


def _works_with(watched: _Watched, stored: Features) -> bool:
    """Whether pairs of a new embedding and a stored one go wrong hardly more than the full's."""
    return compares(mixed_error=_mixed_error(watched, stored), stored_error=_full_error(watched))
