"""Export of a network as a model version: ONNX file, weights and manifest in one folder."""

import copy
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from shared.errors import AlreadyExists
from shared.model.golden import make_golden, require_same
from shared.model.manifest import (
    ONNX_FILE,
    WEIGHTS_FILE,
    ChannelOrder,
    Manifest,
    ProbabilityCurve,
    describe_file,
)
from shared.model.network.checkpoint import EPS_METADATA
from shared.model.network.iresnet import INPUT_SIZE, IResNet
from shared.model.operating_curve import OperatingCurve
from shared.model.sessions.base import Session, split_features
from shared.model.sessions.onnx import OnnxSession
from shared.model.sessions.torch import TorchSession

_PARITY_BATCHES = (1, 2, 32)


def export_version(
    network: IResNet,
    folder: Path,
    *,
    model_version: str,
    channel_order: ChannelOrder,
    threshold: float,
    magnitude_quantiles: Sequence[float],
    golden_crops: NDArray[np.uint8],
    job_id: str,
    probability: ProbabilityCurve | None = None,
    operating_curve: OperatingCurve | None = None,
    parent_version: str | None = None,
    data_snapshot: str | None = None,
    compatible_versions: Sequence[str] = (),
    reference: str | None = None,
    reference_note: str = "",
    metrics: Mapping[str, float] | None = None,
) -> Manifest:
    """Write the folder of a version, if the ONNX file gives the same output as the network.

    Args:
        network: It is not changed; it is exported in eval mode.
        folder: Created atomically.
        model_version: Name of the version.
        channel_order: Channel order that the network was trained with.
        threshold: See `Manifest`; the same holds for the other fields of the manifest.
        magnitude_quantiles: See `Manifest`.
        golden_crops: uint8 [N, 112, 112, 3], BGR; a few faces for the self-check on load.
        job_id: See `Manifest`.
        probability: See `Manifest`.
        operating_curve: See `Manifest`.
        parent_version: See `Manifest`.
        data_snapshot: See `Manifest`.
        compatible_versions: See `Manifest`.
        reference: See `Manifest`.
        reference_note: See `Manifest`.
        metrics: See `Manifest`.

    Raises:
        AlreadyExists: If the folder exists.
        CorruptData: If onnxruntime and torch differ at batch size 1, 2 or 32, or the output is
            NaN or zero.
        pydantic.ValidationError: If a field is invalid.
    """
    if folder.exists():
        raise AlreadyExists(f"{folder} exists; model versions are immutable")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        frozen = copy.deepcopy(network).cpu().float().eval()
        torch_session = TorchSession(frozen, channel_order)
        # A network that diverged fails here, before the export, which takes seconds.
        split_features(torch_session.run(golden_crops))
        _write_onnx(frozen, draft / ONNX_FILE)
        eps = network.spec.eps
        save_file(frozen.state_dict(), draft / WEIGHTS_FILE, {EPS_METADATA: repr(eps)})
        session = OnnxSession(draft / ONNX_FILE, channel_order)
        _require_parity(session, torch_session, golden_crops)
        manifest = Manifest(
            model_version=model_version,
            architecture=network.spec.name,
            embedding_size=network.spec.embedding_size,
            batch_norm_eps=eps,
            channel_order=channel_order,
            threshold=threshold,
            magnitude_quantiles=tuple(magnitude_quantiles),
            probability=probability,
            operating_curve=operating_curve,
            parent_version=parent_version,
            job_id=job_id,
            data_snapshot=data_snapshot,
            created_at=datetime.now(UTC),
            compatible_versions=tuple(compatible_versions),
            reference=reference,
            reference_note=reference_note,
            metrics=dict(metrics or {}),
            files={name: describe_file(draft / name) for name in (ONNX_FILE, WEIGHTS_FILE)},
            golden=make_golden(session, golden_crops),
        )
        manifest.write(draft)
        draft.chmod(0o755)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _write_onnx(network: IResNet, path: Path) -> None:
    # The exporter would treat a batch size of 1 as a constant.
    example = torch.zeros(2, 3, INPUT_SIZE, INPUT_SIZE)
    torch.onnx.export(
        network,
        (example,),
        path,
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["images"],
        output_names=["features"],
        verbose=False,
    )


def _require_parity(onnx: Session, torch_: Session, crops: NDArray[np.uint8]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, *crops.shape[1:]), np.uint8)
    faces = np.concatenate([crops, noise])
    for batch in _PARITY_BATCHES:
        want, got = torch_.run(faces[:batch]), onnx.run(faces[:batch])
        require_same(f"ONNX against torch at batch {batch}", want, got)
