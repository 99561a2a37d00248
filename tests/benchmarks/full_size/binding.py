"""Runs of onnxruntime with and without bound buffers, in float32 and in half precision."""

from pathlib import Path
from typing import Any

import numpy as np

from cli.rendering.renderer import render_person
from shared.model.golden import require_same
from shared.model.manifest import ONNX_FILE, read_manifest
from shared.model.sessions.base import Device, network_input
from shared.model.sessions.cpu import cpu_threads
from shared.model.sessions.cuda import BoundRuns, in_half_precision
from shared.model.sessions.onnx import open_onnx
from tests.benchmarks.sessions import images_per_second

# As the self-check of a version in half precision allows.
_MAX_MAGNITUDE_ERROR = 5e-3


def measure_binding(version: Path, device: Device, batch: int, seconds: float) -> dict[str, Any]:
    """Measure plain and bound runs of a version, and compare what they compute.

    Args:
        version: Folder of the version.
        device: "cuda", or "cpu" for a test of the same steps.
        batch: Images of one run.
        seconds: Duration for each.

    Returns:
        Images per second by number format and kind of run.

    Raises:
        CorruptData: Bound runs or half precision give another result.
        PreconditionFailed: The device is not available.
    """
    manifest = read_manifest(version)
    crops = np.stack([render_person(person, 0) for person in range(batch)])
    images = network_input(crops, manifest.channel_order, manifest.scale)
    wanted: np.ndarray | None = None
    speeds: dict[str, dict[str, float]] = {}
    for numbers, model in (
        ("float32", version / ONNX_FILE),
        ("float16", in_half_precision(version / ONNX_FILE)),
    ):
        session = open_onnx(model, device, cpu_threads())
        name = session.get_inputs()[0].name
        bound = BoundRuns(session, device.partition("-")[0], manifest.embedding_size)
        plain = np.asarray(session.run(None, {name: images})[0])
        wanted = plain if wanted is None else wanted
        require_same(f"{numbers}, plain runs", wanted, plain, _MAX_MAGNITUDE_ERROR)
        require_same(f"{numbers}, bound runs", wanted, bound(images), _MAX_MAGNITUDE_ERROR)
        speeds[numbers] = {
            "plain": images_per_second(
                lambda session=session, name=name: session.run(None, {name: images}),
                batch,
                seconds,
            ),
            "bound": images_per_second(lambda bound=bound: bound(images), batch, seconds),
        }
    return {"device": device, "batch": batch, "images_per_second": speeds}
