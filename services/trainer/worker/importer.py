"""Import of a MagFace checkpoint as a model version."""

import logging
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import numpy as np

from services.trainer.data.arrays import CropArray
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.progress import Progress, Report, Stage
from services.trainer.worker.specs import ImportSpec
from shared.model.default.crops import default_golden_crops
from shared.model.export import export_version
from shared.model.manifest import quantiles_of
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.base import Session, split_features
from shared.model.sessions.torch import TorchSession

logger = logging.getLogger(__name__)

_BATCH_SIZE = 32


def import_checkpoint(
    checkpoint: Path,
    spec: ImportSpec,
    job_id: UUID,
    workdir: Path,
    *,
    reference: ReferenceFaces,
    report: Report,
    magnitude_quantiles: Sequence[float] | None = None,
) -> Path:
    """Load a checkpoint and export it as a version.

    Args:
        checkpoint: An official checkpoint or a safetensors file.
        spec: What the file itself does not contain.
        job_id: Part of the version's name, so that a repeated job makes the same version.
        workdir: The version's folder is made in it.
        reference: Faces on which versions trained from this one must not be worse.
        report: Called with the progress.
        magnitude_quantiles: See `Manifest`; None measures them on the reference faces.

    Returns:
        The version's folder.

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
    if magnitude_quantiles is None:
        report(Progress(Stage.CALIBRATING, 0.3, "measuring magnitudes on the reference"))
        session = TorchSession(loaded.network, spec.channel_order)
        magnitude_quantiles = _measure_quantiles(session, reference.crops)
    report(Progress(Stage.EXPORTING, 0.5, f"exporting {name}"))
    folder = workdir / name
    export_version(
        loaded.network,
        folder,
        model_version=name,
        channel_order=spec.channel_order,
        threshold=spec.threshold,
        magnitude_quantiles=magnitude_quantiles,
        golden_crops=default_golden_crops(),
        job_id=str(job_id),
        reference=reference.sha256,
    )
    return folder


def _measure_quantiles(session: Session, crops: CropArray) -> tuple[float, ...]:
    batches = np.array_split(crops, -(-len(crops) // _BATCH_SIZE))
    magnitudes = np.concatenate([split_features(session.run(batch))[1] for batch in batches])
    return quantiles_of(magnitudes)
