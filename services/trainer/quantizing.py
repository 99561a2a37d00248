"""Makes the eight-bit form of a version, and says whether it may stand in for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np

from services.trainer.material import divide_reference
from services.trainer.training import (
    FeedbackSource,
    GateVerdict,
    Progress,
    ReferenceFaces,
    Report,
    stage,
)
from shared.model.manifest import ONNX_FILE, read_manifest
from shared.model.quantize import quantize_network, write_quantized_version
from shared.model.session import OnnxSession, open_session

MAX_LOSS = 0.003
# Below this it is another network, whatever its errors on these faces.
MIN_COSINE = 0.95
# With fewer, one pair is more than the loss that is to be noticed.
MIN_FEEDBACK_PAIRS = math.ceil(1 / MAX_LOSS)
_CALIBRATION_FACES = 256
_SEED = 0
_BATCH = 32
# Where in the whole work each stage ends.
_DECODED, _QUANTIZED, _REFERENCE = 0.1, 0.5, 0.7


@dataclass(frozen=True)
class FeedbackFigures:
    """Wrong decisions on the feedback's pairs, each version at its own threshold, 0..1."""

    pairs: int
    full_error: float
    quantized_error: float


@dataclass(frozen=True, kw_only=True)
class QuantizedFigures:
    """The quantized version beside the full one, on people that it was not calibrated on.

    Attributes:
        full_error: Mean of FNMR and FMR on the reference's people, at the full version's
            threshold.
        quantized_error: The same of the quantized version, at its own.
        mixed_error: Of pairs of a new embedding and a stored one of the full version.
        cosine_mean: Between the two versions' embeddings of a face.
        cosine_min: The same of the face that they agree on least.
        magnitude_ratio: Geometric mean of the quantized version's magnitudes over the full's.
        magnitude_order: Spearman's rank correlation of the magnitudes.
    """

    full_error: float
    quantized_error: float
    mixed_error: float
    cosine_mean: float
    cosine_min: float
    magnitude_ratio: float
    magnitude_order: float


@dataclass(frozen=True)
class Quantized:
    """A version's folder, ready to publish, and the verdict on it."""

    folder: Path
    gate: GateVerdict


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
    images, crops, links, same = _feedback(feedback, workdir, report)
    divided = divide_reference(reference, _SEED)
    report(Progress(_DECODED, "quantizing"))
    network = workdir / ONNX_FILE
    chosen = np.random.default_rng(_SEED).permutation(divided.replayed)[:_CALIBRATION_FACES]
    quantize_network(parent / ONNX_FILE, manifest, divided.crops[np.sort(chosen)], network)
    full = open_session(parent)
    quantized = OnnxSession(network, manifest.channel_order, manifest.scale)

    shown, pairs = _compacted(divided.pairs)
    faces = divided.crops[shown]
    before, after = (
        _features(session, faces, stage(report, f"embedding the reference, {what}", start, end))
        for session, what, start, end in (
            (full, "full", _QUANTIZED, (_QUANTIZED + _REFERENCE) / 2),
            (quantized, "quantized", (_QUANTIZED + _REFERENCE) / 2, _REFERENCE),
        )
    )
    figures = _measure(pairs, before, after, manifest.threshold)
    report(Progress(_REFERENCE, "embedding the feedback"))
    on_feedback = (
        FeedbackFigures(
            len(same),
            *(
                _wrong(_features(session, crops), links, same, manifest.threshold)
                for session in (full, quantized)
            ),
        )
        if len(same)
        else None
    )
    compatible = [
        name
        for name, stored in (
            (manifest.model_version, before),
            *((read_manifest(each).model_version, _of(each, faces)) for each in ancestors),
        )
        if _goes_on(pairs, after, stored, manifest.threshold)
    ]
    folder = workdir / f"{manifest.architecture}-int8-{job_id.hex[:8]}"
    made = write_quantized_version(
        parent,
        network,
        folder,
        manifest,
        model_version=folder.name,
        parent_version=manifest.model_version,
        job_id=str(job_id),
        created_at=_now(),
        compatible_versions=tuple(compatible),
        reference=reference.sha256,
        magnitude_quantiles=tuple(
            quantile * figures.magnitude_ratio for quantile in manifest.magnitude_quantiles
        ),
        metrics=_metrics(figures, on_feedback),
    )
    return Quantized(folder, decide(figures, on_feedback, self_check=_checks(folder, made)))
