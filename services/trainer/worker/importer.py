"""Import of a MagFace checkpoint as a model version."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import CropArray, IndexArray
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.data.splits import reference_pairs
from services.trainer.evaluation.gate import GateVerdict
from services.trainer.evaluation.import_gate import ImportCalibration, judge_import
from services.trainer.progress import Progress, Report, Stage
from services.trainer.worker.specs import ImportSpec
from shared.evaluation.operating_point import ScoredPeople
from shared.evaluation.scores import Scores, pair_similarity
from shared.model.default.crops import default_golden_crops
from shared.model.export import export_version
from shared.model.golden import passes_self_check
from shared.model.manifest import quantiles_of
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.base import Session, split_features
from shared.model.sessions.torch import TorchSession

logger = logging.getLogger(__name__)

_BATCH_SIZE = 32
_SEED = 0


@dataclass(frozen=True)
class ImportedVersion:
    """A version, ready to publish.

    Attributes:
        folder: Its files.
        gate: The gate's verdict.
    """

    folder: Path
    gate: GateVerdict


def import_checkpoint(
    checkpoint: Path,
    spec: ImportSpec,
    job_id: UUID,
    workdir: Path,
    *,
    reference: ReferenceFaces,
    report: Report,
    reference_note: str = "",
    target_fmr: float | None = None,
    magnitude_quantiles: Sequence[float] | None = None,
) -> ImportedVersion:
    """Load a checkpoint, export it as a version and judge it on reference faces.

    Args:
        checkpoint: An official checkpoint or a safetensors file.
        spec: What the file itself does not contain.
        job_id: Part of the version's name, so that a repeated job makes the same version.
        workdir: The version's folder is made in it.
        reference: Faces to measure the network on, and on which versions trained from this one
            must not be worse.
        report: Called with the progress.
        reference_note: See `Manifest`.
        target_fmr: The operator's target false-match rate; None for none.
        magnitude_quantiles: See `Manifest`; None measures them on the reference faces.

    Raises:
        InvalidInput: If the file is not a complete checkpoint with weights only; the message
            says what is wrong.
        CorruptData: If the network outputs NaN or zero, or its ONNX form differs from it.
    """
    report(Progress(Stage.LOADING_MODEL, 0.1, "reading the checkpoint"))
    name_for_errors = spec.file_name or ("the uploaded file" if spec.upload else checkpoint.name)
    loaded = load_checkpoint(checkpoint, name=name_for_errors, eps=spec.batch_norm_eps)
    if loaded.warning:
        logger.warning("%s", loaded.warning)
    name = f"{loaded.spec.name}-{job_id.hex[:8]}"
    message = f"read {loaded.entries} entries of {loaded.spec.name}"
    report(Progress(Stage.LOADING_MODEL, 0.3, message))
    report(Progress(Stage.CALIBRATING, 0.3, "measuring the reference faces"))
    session = TorchSession(loaded.network, spec.channel_order)
    embeddings, magnitudes = _embed(session, reference.crops)
    calibration = ImportCalibration.of(_score(embeddings, reference.persons))
    report(Progress(Stage.EXPORTING, 0.5, f"exporting {name}"))
    folder = workdir / name
    manifest = export_version(
        loaded.network,
        folder,
        model_version=name,
        channel_order=spec.channel_order,
        threshold=calibration.threshold if spec.threshold is None else spec.threshold,
        probability=calibration.probability,
        operating_curve=calibration.curve,
        magnitude_quantiles=magnitude_quantiles or quantiles_of(magnitudes),
        golden_crops=default_golden_crops(),
        job_id=str(job_id),
        reference=reference.sha256,
        reference_note=reference_note,
    )
    gate = judge_import(
        manifest, calibration, target_fmr=target_fmr, self_check=passes_self_check(folder)
    )
    return ImportedVersion(folder, gate)


def _embed(session: Session, crops: CropArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the unit embeddings, float32 [N, D], and the magnitudes, float32 [N]."""
    batches = np.array_split(crops, -(-len(crops) // _BATCH_SIZE))
    embeddings, magnitudes = zip(
        *(split_features(session.run(batch)) for batch in batches), strict=True
    )
    return np.concatenate(embeddings), np.concatenate(magnitudes)


def _score(embeddings: NDArray[np.float32], persons: IndexArray) -> ScoredPeople:
    pairs = reference_pairs(persons, np.arange(len(persons)), _SEED)
    scores = Scores(pair_similarity(embeddings, pairs.images), pairs.genuine)
    return ScoredPeople.of(scores, pairs.people)
