"""Opens a model version's folder with the engine of choice; imports torch only when asked for."""

from pathlib import Path

from shared.errors import CorruptData, InvalidInput, PreconditionFailed
from shared.model.manifest import ONNX_FILE, WEIGHTS_FILE, Manifest, read_manifest
from shared.model.sessions.base import Device, Engine, Session
from shared.model.sessions.onnx import open_network, require_onnx_device


def require_device(engine: Engine, device: Device) -> None:
    """Make sure that sessions can be opened here, before there is a model to open.

    Args:
        engine: torch is imported only when asked for.
        device: Never replaced by another one.

    Raises:
        PreconditionFailed: If the device or torch is not there.
    """
    if engine == "onnxruntime":
        require_onnx_device(device)
        return
    try:
        from shared.model.sessions.torch import require_torch_device  # noqa: PLC0415
    except ImportError as error:
        raise PreconditionFailed(f"engine torch was asked for, but {error}") from error
    require_torch_device(device)


def open_session(
    folder: Path,
    engine: Engine = "onnxruntime",
    device: Device = "cpu",
    threads: int | None = None,
    batch_images: int | None = None,
) -> Session:
    """Open a model version's folder with the engine of choice.

    Args:
        folder: Holds the version's files and manifest.
        engine: torch is imported only when asked for.
        device: Never replaced by another one.
        threads: CPU threads for one run; `cpu_threads()` when None.
        batch_images: Most images in one run. When None, onnxruntime computes 8 at a time on a CPU,
            and everything else any number.

    Raises:
        CorruptData: If the folder's files are damaged or do not fit each other.
        PreconditionFailed: If the device or torch is not there.
    """
    manifest = read_manifest(folder)
    session = _open(folder, manifest, engine, device, threads=threads, batch_images=batch_images)
    if session.embedding_size != manifest.embedding_size:
        raise CorruptData(
            f"{folder}: the network gives {session.embedding_size} numbers, "
            f"its manifest says {manifest.embedding_size}"
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
        from shared.model.network.checkpoint import load_checkpoint  # noqa: PLC0415
        from shared.model.sessions.torch import TorchSession  # noqa: PLC0415
    except ImportError as error:
        raise PreconditionFailed(f"engine torch was asked for, but {error}") from error
    try:
        network = load_checkpoint(folder / WEIGHTS_FILE).network
    except InvalidInput as error:
        raise CorruptData(f"{folder}: {error.reason}") from error
    order, scale = manifest.channel_order, manifest.scale
    return TorchSession(
        network, order, scale, device=device, threads=threads, batch_images=batch_images
    )
