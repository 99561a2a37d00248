"""Opening of sessions for model versions; torch is imported only for engine torch."""

from pathlib import Path

from shared.errors import CorruptData, PreconditionFailed
from shared.model.manifest import ONNX_FILE, Manifest, read_manifest
from shared.model.sessions.base import Device, Engine, Session
from shared.model.sessions.onnx import open_network, require_onnx_device


def require_device(engine: Engine, device: Device) -> None:
    """Check that an engine and a device can be used, without a model.

    Args:
        engine: torch is imported only if this is ``torch``.
        device: There is no fallback to another device.

    Raises:
        PreconditionFailed: If the device or torch is not available.
    """
    if engine == "onnxruntime":
        require_onnx_device(device)
        return
    try:
        from shared.model.sessions.torch import require_torch_device  # noqa: PLC0415
    except ImportError as error:
        raise PreconditionFailed(f"engine torch was requested, but {error}") from error
    require_torch_device(device)


def open_session(
    folder: Path,
    engine: Engine = "onnxruntime",
    device: Device = "cpu",
    threads: int | None = None,
    batch_images: int | None = None,
) -> Session:
    """Open the folder of a model version.

    Args:
        folder: Has the files and the manifest of the version.
        engine: torch is imported only if this is ``torch``.
        device: There is no fallback to another device.
        threads: CPU threads for one run; `cpu_threads()` when None.
        batch_images: Most images in one run. When None, onnxruntime on a CPU computes 8 at a time,
            and there is no limit otherwise.

    Raises:
        CorruptData: If the files are damaged or do not match each other.
        PreconditionFailed: If the device or torch is not available.
    """
    manifest = read_manifest(folder)
    session = _open(folder, manifest, engine, device, threads=threads, batch_images=batch_images)
    if session.embedding_size != manifest.embedding_size:
        raise CorruptData(
            f"the network has embedding size {session.embedding_size}, "
            f"the manifest says {manifest.embedding_size}"
        )
    return session


def _open(
    folder: Path,
    manifest: Manifest,
    engine: Engine,
    device: Device,
    *,
    threads: int | None,
    batch_images: int | None,
) -> Session:
    if engine == "onnxruntime":
        return open_network(folder / ONNX_FILE, manifest, device, threads, batch_images)
    try:
        from shared.model.network.checkpoint import load_version_network  # noqa: PLC0415
        from shared.model.sessions.torch import TorchSession  # noqa: PLC0415
    except ImportError as error:
        raise PreconditionFailed(f"engine torch was requested, but {error}") from error
    network = load_version_network(folder)
    order, scale = manifest.channel_order, manifest.scale
    return TorchSession(
        network, order, scale, device=device, threads=threads, batch_images=batch_images
    )
