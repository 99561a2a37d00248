"""ONNX Runtime sessions on a CPU or a CUDA GPU."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shared.errors import CorruptData, PreconditionFailed
from shared.model.manifest import ChannelOrder, Manifest
from shared.model.sessions.base import (
    CPU_BATCH_IMAGES,
    Device,
    Engine,
    check_crops,
    network_input,
    run_in_batches,
)
from shared.model.sessions.cpu import cpu_threads
from shared.model.sessions.cuda import BoundRuns, in_half_precision

# An ONNX file of one Relu over one float, to ask onnxruntime what it can run on.
_ONE_RELU: Final = (
    b'\x08\x08\x12\x00:2\n\x0c\n\x01a\x12\x01b"\x04Relu\x12\x00'
    b"Z\x0f\n\x01a\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01b\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
# onnxruntime's global thread pool is set once in a process and cannot be unset.
_threads_shared = False


class OnnxSession:
    """Runs an ONNX file with onnxruntime.

    Args:
        path: A network from float32 [batch, 3, 112, 112] to float32 [batch, size].
        channel_order: What the network wants.
        scale: What a pixel is multiplied by.
        device: Never replaced by another one.
        threads: CPU threads for one run; `cpu_threads()` when None.
        batch_images: Most images in one run; when None, 8 on a CPU and any number on a GPU.

    Raises:
        CorruptData: If the file is no such network.
        PreconditionFailed: If the device is not there.
    """

    engine: Engine = "onnxruntime"

    def __init__(
        self,
        path: Path,
        channel_order: ChannelOrder,
        scale: float = 1 / 255,
        *,
        device: Device = "cpu",
        threads: int | None = None,
        batch_images: int | None = None,
    ) -> None:
        self.device = device
        self._channel_order = channel_order
        self._scale = scale
        model = in_half_precision(path) if device == "cuda-fp16" else path
        self._session = _open_onnx(model, device, threads or cpu_threads())
        self._input, self.embedding_size = _check_signature(path, self._session)
        self._bound = None
        if device != "cpu":
            self._bound = BoundRuns(self._session, "cuda", self.embedding_size)
        elif batch_images is None:
            batch_images = CPU_BATCH_IMAGES
        self._batch_images = batch_images

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_crops(crops)
        return run_in_batches(self._run_batch, crops, self._batch_images)

    def _run_batch(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = network_input(crops, self._channel_order, self._scale)
        if self._bound is not None:
            return self._bound(images)
        features: NDArray[np.float32] = self._session.run(None, {self._input: images})[0]
        return features


def open_network(
    file: Path,
    manifest: Manifest,
    device: Device = "cpu",
    threads: int | None = None,
    batch_images: int | None = None,
) -> OnnxSession:
    """Open an ONNX file with onnxruntime, for the input that a manifest describes.

    See `OnnxSession` for the arguments.

    Raises:
        CorruptData: If the file is no such network.
        PreconditionFailed: If the device is not there.
    """
    order, scale = manifest.channel_order, manifest.scale
    return OnnxSession(
        file, order, scale, device=device, threads=threads, batch_images=batch_images
    )


def share_threads(threads: int) -> None:
    """Let all onnxruntime sessions of this process compute with the same CPU threads.

    A session's own threads have the priority of the thread that opens it, for good. These have
    the process's, so that sessions can be opened in the background; but onnxruntime lets them
    spin for a moment after each run. What else is said of threads then holds for torch alone.

    Args:
        threads: How many compute one run, its caller's included.

    To be called before the first session is opened, and once.
    """
    global _threads_shared  # noqa: PLW0603 - onnxruntime has one pool per process
    ort.set_global_thread_pool_sizes(threads, 1)
    _threads_shared = True


def threads_shared() -> bool:
    """Whether sessions may be opened on a thread of another priority than they run at."""
    return _threads_shared


def require_onnx_device(device: Device) -> None:
    """Make sure that onnxruntime can use a device.

    Raises:
        PreconditionFailed: If it is not there.
    """
    _open_onnx(_ONE_RELU, device, threads=1)


def _open_onnx(model: Path | bytes, device: Device, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    if _threads_shared:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin between two runs take the cores from whatever else is here; within one
    # they spare a twentieth of its time. Shared ones cannot be told.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if device != "cpu":
        _load_cuda_libraries()
        # TF32 would use up the self-check's tolerance.
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base class of their own
        name = model if isinstance(model, Path) else "the network to try the device with"
        raise CorruptData(f"{name} is not an ONNX network that can be loaded: {error}") from error
    if device != "cpu" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise PreconditionFailed(
            f"device {device} was asked for, but onnxruntime cannot use a CUDA GPU here; it needs "
            "an NVIDIA GPU, onnxruntime-gpu, CUDA 13 and cuDNN 9. Ask for device cpu otherwise"
        )
    return session


def _load_cuda_libraries() -> None:
    # onnxruntime prints what it does not find, and stdout belongs to our callers.
    with redirect_stdout(sys.stderr):
        ort.preload_dlls()


def _check_signature(path: Path, session: ort.InferenceSession) -> tuple[str, int]:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    signature = [(each.type, each.shape) for each in (*inputs, *outputs)]
    match signature:
        case [
            ("tensor(float)", [str(), 3, 112, 112]),
            ("tensor(float)", [str(), int(embedding_size)]),
        ]:
            return inputs[0].name, embedding_size
    raise CorruptData(
        f"{path} takes and gives {signature} instead of one float [batch, 3, 112, 112] and "
        "one float [batch, size]"
    )
