"""Speed of the product's session of a model version."""

import time
from pathlib import Path
from typing import Any

from shared.model.golden import check_golden
from shared.model.manifest import read_manifest
from shared.model.sessions.base import Device, Engine
from shared.model.sessions.factory import open_session
from tests.benchmarks.sessions import session_speed


def measure_serving(
    version: Path, engine: Engine, device: Device, batches: tuple[int, ...], seconds: float
) -> dict[str, Any]:
    """Open a version as the embedder does, check it, and measure its speed.

    Args:
        version: Folder of the version.
        engine: The engine.
        device: The device; there is no fallback.
        batches: Images of one run. One image is an `Embed`, two are a `Verify`.
        seconds: Duration for each.

    Returns:
        Seconds to open and to check the version, images per second by images of one run, and the
        bytes in use on the GPU, by this process and others; None without one.

    Raises:
        PreconditionFailed: The device is not available.
        CorruptData: The session does not compute what the version's golden crops say.
    """
    start = time.perf_counter()
    session = open_session(version, engine, device)
    opened = time.perf_counter()
    check_golden(session, read_manifest(version))
    checked = time.perf_counter()
    speeds = {str(batch): session_speed(session, batch, seconds) for batch in batches}
    return {
        "engine": engine,
        "device": device,
        "open_s": opened - start,
        "check_s": checked - opened,
        "images_per_second": speeds,
        "gpu_used_bytes": None if device == "cpu" else _gpu_used_bytes(),
    }


def _gpu_used_bytes() -> int:
    # Imported here because a session of onnxruntime on a CPU takes less memory without torch.
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free
