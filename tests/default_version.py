"""The bundled checkpoint exported as a model version, for tests and benchmarks."""

from pathlib import Path

from shared.model.default import DEFAULT_CHECKPOINT, default_calibration
from shared.model.default.crops import default_golden_crops
from shared.model.export import export_version
from shared.model.network.checkpoint import load_checkpoint


def export_default(
    folder: Path,
    *,
    checkpoint: Path = DEFAULT_CHECKPOINT,
    threshold: float | None = None,
    job_id: str = "job",
) -> Path:
    """Export a checkpoint with the bundled default's calibration.

    Args:
        folder: Is made; the version has its name.
        checkpoint: Another network to export.
        threshold: The default's when None.
        job_id: See `Manifest`.
    """
    calibration = default_calibration()
    export_version(
        load_checkpoint(checkpoint).network,
        folder,
        model_version=folder.name,
        channel_order=calibration.channel_order,
        threshold=calibration.threshold if threshold is None else threshold,
        magnitude_quantiles=calibration.magnitude_quantiles,
        golden_crops=default_golden_crops(),
        job_id=job_id,
    )
    return folder
