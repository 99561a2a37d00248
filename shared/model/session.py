"""Engines that turn crops into features, behind one protocol; this module needs no torch."""

import math
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shared.errors import CorruptData, InvalidInput, PreconditionFailed
from shared.model.cuda import BoundRuns, in_half_precision
from shared.model.manifest import ONNX_FILE, WEIGHTS_FILE, ChannelOrder, Manifest, read_manifest
from shared.model.preprocess import CROP_SIZE, network_input

Engine = Literal["onnxruntime", "torch"]
Device = Literal["cpu", "cuda", "cuda-fp16"]

# What an iResNet-18 computes fastest on a CPU (`make bench-serving`, engine): the layers of a
# larger batch no longer fit into the caches.
_AT_A_TIME_ON_CPU: Final = 8

# An ONNX file of one Relu over one float, to ask onnxruntime what it can run on.
_ONE_RELU: Final = (
    b'\x08\x08\x12\x00:2\n\x0c\n\x01a\x12\x01b"\x04Relu\x12\x00'
    b"Z\x0f\n\x01a\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01b\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


# Whether onnxruntime was told so; it keeps it for the whole process, and knows no going back.
_threads_shared = False


class Session(Protocol):
    """A network ready to run. Calls may come from any thread, one at a time."""

    @property
    def engine(self) -> Engine: ...

    @property
    def device(self) -> Device: ...

    @property
    def embedding_size(self) -> int: ...

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute features; their direction is the embedding, their norm the magnitude.

        Args:
            crops: uint8 [N, 112, 112, 3], N >= 1, aligned, BGR whatever the network wants.

        Returns:
            float32 [N, embedding_size], not normalised and not checked.

        Raises:
            InvalidInput: If the crops have another shape or type.
        """
        ...


def check_crops(crops: NDArray[np.uint8]) -> None:
    """Refuse what an engine would take without a word, such as an empty batch.

    Raises:
        InvalidInput: If the crops are not uint8 [N, 112, 112, 3] with N >= 1.
    """
    if crops.dtype != np.uint8 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3) or len(crops) == 0:
        raise InvalidInput(
            "crops",
            f"{crops.dtype} {list(crops.shape)} instead of uint8 [N, 112, 112, 3] with N >= 1",
        )


def _load_cuda_libraries() -> None:
    # onnxruntime prints what it does not find, and stdout belongs to our callers.
    with redirect_stdout(sys.stderr):
        ort.preload_dlls()


class OnnxSession:
    """Runs an ONNX file with onnxruntime.

    Args:
        path: A network from float32 [batch, 3, 112, 112] to float32 [batch, size].
        channel_order: What the network wants.
        scale: What a pixel is multiplied by.
        device: Never replaced by another one.
        threads: CPU threads for one run; `cpu_threads()` when None.

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

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Session.run`."""
        check_crops(crops)
        if self._bound is not None:
            return self._bound(network_input(crops, self._channel_order, self._scale))
        starts = range(0, len(crops), _AT_A_TIME_ON_CPU)
        parts = [self._run_on_cpu(crops[start : start + _AT_A_TIME_ON_CPU]) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_on_cpu(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = network_input(crops, self._channel_order, self._scale)
        features: NDArray[np.float32] = self._session.run(None, {self._input: images})[0]
        return features


def share_threads(threads: int) -> None:
    """Let all onnxruntime sessions of this process compute with the same CPU threads.

    A session's own threads have the priority of the thread that opens it, for good. These have
    the process's, so that sessions can be opened in the background; but onnxruntime lets them
    spin for a moment after each run. What else is said of threads then holds for torch alone.

    Args:
        threads: How many compute one run, its caller's included.

    To be called before the first session is opened, and once.
    """
    global _threads_shared  # noqa: PLW0603 - so is what it says
    ort.set_global_thread_pool_sizes(threads, 1)
    _threads_shared = True


def threads_shared() -> bool:
    """Whether sessions may be opened on a thread of another priority than they run at."""
    return _threads_shared


def require_device(engine: Engine, device: Device) -> None:
    """Make sure that sessions can be opened here, before there is a model to open.

    Args:
        engine: torch is imported only when asked for.
        device: Never replaced by another one.

    Raises:
        PreconditionFailed: If the device or torch is not there.
    """
    if engine == "onnxruntime":
        _open_onnx(_ONE_RELU, device, threads=1)
        return
    try:
        from shared.model.torch_session import require_torch_device  # noqa: PLC0415
    except ImportError as error:
        raise PreconditionFailed(f"engine torch was asked for, but {error}") from error
    require_torch_device(device)


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


def open_session(
    folder: Path,
    engine: Engine = "onnxruntime",
    device: Device = "cpu",
    threads: int | None = None,
) -> Session:
    """Open a model version's folder with the engine of choice.

    Args:
        folder: Holds the version's files and manifest.
        engine: torch is imported only when asked for.
        device: Never replaced by another one.
        threads: CPU threads for one run; `cpu_threads()` when None.

    Raises:
        CorruptData: If the folder's files are damaged or do not fit each other.
        PreconditionFailed: If the device or torch is not there.
    """
    manifest = read_manifest(folder)
    session = _open(folder, manifest, engine, device, threads)
    if session.embedding_size != manifest.embedding_size:
        raise CorruptData(
            f"{folder}: the network gives {session.embedding_size} numbers, "
            f"its manifest says {manifest.embedding_size}"
        )
    return session


def open_network(
    file: Path, manifest: Manifest, device: Device = "cpu", threads: int | None = None
) -> OnnxSession:
    """Open an ONNX file with onnxruntime, for the input that a manifest describes.

    Raises:
        CorruptData: If the file is no such network.
        PreconditionFailed: If the device is not there.
    """
    order, scale = manifest.channel_order, manifest.scale
    return OnnxSession(file, order, scale, device=device, threads=threads)


def _open(
    folder: Path, manifest: Manifest, engine: Engine, device: Device, threads: int | None
) -> Session:
    if engine == "onnxruntime":
        return open_network(folder / ONNX_FILE, manifest, device, threads)
    try:
        from shared.model.checkpoint import load_checkpoint  # noqa: PLC0415
        from shared.model.torch_session import TorchSession  # noqa: PLC0415
    except ImportError as error:
        raise PreconditionFailed(f"engine torch was asked for, but {error}") from error
    try:
        network = load_checkpoint(folder / WEIGHTS_FILE).network
    except InvalidInput as error:
        raise CorruptData(f"{folder}: {error.why}") from error
    order, scale = manifest.channel_order, manifest.scale
    return TorchSession(network, order, scale, device=device, threads=threads)


def split_features(
    raw: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Split features into direction and length (MagFace, section 3: a = |f|).

    Args:
        raw: float32 [N, D] as a session gives them.

    Returns:
        Unit embeddings, float32 [N, D], and magnitudes, float32 [N].

    Raises:
        CorruptData: If a row is zero or not finite; it names the first such row.
    """
    wide = raw.astype(np.float64)
    norms = np.sqrt(np.vecdot(wide, wide))
    magnitudes = norms.astype(np.float32)
    usable = np.isfinite(magnitudes) & (magnitudes > 0)
    if not usable.all():
        bad = np.flatnonzero(~usable)
        row = int(bad[0])
        what = "all zeros" if norms[row] == 0 else "NaN or infinity"
        raise CorruptData(
            f"row {row}: the network's output is {what} "
            f"({bad.size} of {len(raw)} rows are unusable)"
        )
    return (wide / norms[:, None]).astype(np.float32), magnitudes


def _read_quota(group: Path) -> float:
    version_2, version_1 = group / "cpu.max", group / "cpu.cfs_quota_us"
    if version_2.is_file():
        quota, period = version_2.read_text().split()
    elif version_1.is_file():
        quota, period = version_1.read_text().strip(), (group / "cpu.cfs_period_us").read_text()
    else:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def cpu_threads(root: Path = Path("/")) -> int:
    """Count the CPUs that this process may keep busy: its affinity, less a cgroup's quota.

    A fraction is rounded down, since one thread too many is throttled with all the others.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    quotas = [math.inf]
    memberships = (root / "proc/self/cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in memberships):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        own = top / path.lstrip("/")
        # Any group on the way up may hold the quota, and a container shows only the upper ones.
        quotas += [_read_quota(group) for group in (own, *own.parents) if group.is_relative_to(top)]
    return max(1, int(min(len(os.sched_getaffinity(0)), *quotas)))
