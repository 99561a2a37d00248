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

# An ONNX file with one Relu over one float, to test whether onnxruntime can use a device.
_ONE_RELU: Final = (
    b'\x08\x08\x12\x00:2\n\x0c\n\x01a\x12\x01b"\x04Relu\x12\x00'
    b"Z\x0f\n\x01a\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01b\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
# The global thread pool of onnxruntime is set once per process and cannot be removed.
_threads_shared = False


class OnnxSession:
    """Runs an ONNX file with onnxruntime.

    Args:
        path: A network from float32 [batch, 3, 112, 112] to float32 [batch, size].
        channel_order: Channel order that the network was trained with.
        scale: Factor for each pixel.
        device: There is no fallback to another device.
        threads: CPU threads for one run; `cpu_threads()` when None.
        batch_images: Most images in one run; when None, 8 on a CPU and no limit on a GPU.

    Raises:
        CorruptData: If the file is not such a network.
        PreconditionFailed: If the device is not available.
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
        self._session = open_onnx(model, device, threads or cpu_threads())
        self._options = ort.RunOptions()
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

    def cancel(self) -> None:
        """End the run under way at the next operator, and refuse all further ones.

        Any thread may call it. Runs on a GPU are not ended.
        """
        self._options.terminate = True

    def _run_batch(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = network_input(crops, self._channel_order, self._scale)
        if self._bound is not None:
            return self._bound(images)
        features: NDArray[np.float32] = self._session.run(
            None, {self._input: images}, self._options
        )[0]
        return features


def open_network(
    file: Path,
    manifest: Manifest,
    device: Device = "cpu",
    threads: int | None = None,
    batch_images: int | None = None,
) -> OnnxSession:
    """Open an ONNX file with the channel order and scale of a manifest.

    See `OnnxSession` for the other arguments.

    Raises:
        CorruptData: If the file is not such a network.
        PreconditionFailed: If the device is not available.
    """
    order, scale = manifest.channel_order, manifest.scale
    return OnnxSession(
        file, order, scale, device=device, threads=threads, batch_images=batch_images
    )


def share_threads(threads: int) -> None:
    """Make all onnxruntime sessions of this process use the same CPU threads.

    The threads of a single session always have the priority of the thread that opened it. Shared
    threads have the priority of the process, so sessions can be opened by a background thread of
    low priority. Their disadvantage is that onnxruntime lets them spin briefly after each run.
    The ``threads`` of `open_session` then applies to torch only.

    Call it once, before the first session is opened.

    Args:
        threads: Threads for one run, including the calling thread.
    """
    global _threads_shared  # noqa: PLW0603 - onnxruntime has one pool per process
    ort.set_global_thread_pool_sizes(threads, 1)
    _threads_shared = True


def threads_shared() -> bool:
    """Say whether `share_threads` was called, so that any thread may open sessions."""
    return _threads_shared


def require_onnx_device(device: Device) -> None:
    """Check that onnxruntime can use a device.

    Raises:
        PreconditionFailed: If the device is not available.
    """
    open_onnx(_ONE_RELU, device, threads=1)


def open_onnx(model: Path | bytes, device: Device, threads: int) -> ort.InferenceSession:
    """Open a network of any signature with the settings that all sessions of a process share.

    Args:
        model: An ONNX file, or its bytes.
        device: There is no fallback to another device.
        threads: CPU threads for one run; without effect after `share_threads`.

    Raises:
        CorruptData: If onnxruntime cannot load the network.
        PreconditionFailed: If the device is not available.
    """
    options = ort.SessionOptions()
    if _threads_shared:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin between runs take CPU time from other work; spinning within a run makes it
    # a twentieth faster. The option has no effect on shared threads.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if device != "cpu":
        _load_cuda_libraries()
        # With TF32 the error would exceed the tolerance of the self-check.
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # the errors of onnxruntime have no common base class
        name = model.name if isinstance(model, Path) else "the network for the device test"
        # The text of onnxruntime names the file with its path.
        raise CorruptData(
            f"{name} cannot be loaded as an ONNX network", detail=str(error)
        ) from error
    if device != "cpu" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise PreconditionFailed(
            f"device {device} was requested, but onnxruntime cannot use a CUDA GPU here; it needs "
            "an NVIDIA GPU, onnxruntime-gpu, CUDA 13 and cuDNN 9. Otherwise request device cpu"
        )
    return session


def _load_cuda_libraries() -> None:
    # onnxruntime prints the libraries that it does not find; stdout is for the output of commands.
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
        f"{path.name} has inputs and outputs {signature} instead of one float"
        " [batch, 3, 112, 112] and one float [batch, size]"
    )
