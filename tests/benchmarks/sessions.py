"""Throughput of a bare session of iResNet-18 by batch size, on the device ``MAGFACE_DEVICE``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cli.rendering.renderer import render_person
from shared.model.golden import check_golden
from shared.model.manifest import read_manifest
from shared.model.sessions.base import Device, Session
from shared.model.sessions.cpu import cpu_threads
from shared.model.sessions.factory import open_session, require_device
from shared.settings import MagFaceSettings
from tests.benchmarks.serving.servers.versions import BenchVersions

_BATCHES = (1, 8, 32, 128)
_SECONDS = 5.0


class _DeviceSettings(MagFaceSettings):
    device: Device = "cpu"


def run(out: Path, seconds: float = _SECONDS, *, quick: bool = False) -> dict[str, Any]:
    """Measure each batch size for some seconds, after the self-check of the version.

    Args:
        out: Folder for the version, which later runs reuse.
        seconds: Duration for each batch size.
        quick: Whether to use a narrow network; the figures then mean nothing.

    Raises:
        PreconditionFailed: The device is not available.
    """
    device = _DeviceSettings().device
    require_device("onnxruntime", device)
    folder = BenchVersions(out / "serving-versions", quick=quick).iresnet18()
    session = open_session(folder, "onnxruntime", device)
    check_golden(session, read_manifest(folder))
    speeds = {str(batch): session_speed(session, batch, seconds) for batch in _BATCHES}
    return {"device": device, "cpu_threads": cpu_threads(), "images_per_second": speeds}


def session_speed(session: Session, batch: int, seconds: float) -> float:
    """Images per second of a session with so many images at a time."""
    crops = np.stack([render_person(person, 0) for person in range(batch)])
    return images_per_second(lambda: session.run(crops), batch, seconds)


def images_per_second(run: Callable[[], object], images: int, seconds: float) -> float:
    """Call something again and again, after one call that does not count.

    Args:
        run: Computes so many images.
        images: Number of images of one call.
        seconds: Duration; at least one call is made.
    """
    run()
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not done:
        run()
        done += images
    return done / elapsed
