"""int8 against float32: speed of iResNet-18, and loss of accuracy of the bundled network.

The speed is measured with random weights, which cost as much as trained ones. The accuracy is
measured with the bundled network, the only trained one, on real faces where they are available.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cli.rendering.renderer import render_person
from shared.datasets.folder import read_identities
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import ONNX_FILE, read_manifest
from shared.model.quantize import quantize_network
from shared.model.sessions.onnx import OnnxSession
from shared.settings import ImageLimits
from tests.benchmarks.learning.figures import figures
from tests.benchmarks.serving.load.measurement import Figures, alternate, ratio_of
from tests.benchmarks.serving.plan import Plan
from tests.benchmarks.serving.servers.bare_engine import BareEngine
from tests.benchmarks.serving.servers.versions import BenchVersions
from tests.default_version import export_default

_FACES = Path("../shared/faces/lfw")
_BATCH = 32
_CALIBRATION = 128
_QUICK_PEOPLE = 20


def int8(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Throughput of the quantized network over the float32 one, both in batches of 32."""
    network = versions.iresnet18()
    rendered = np.stack([render_person(person, 1) for person in range(_BATCH)])
    quantized = _quantized(network, rendered, folder / "iresnet18")
    engines = {"int8": BareEngine(quantized), "float32": BareEngine(network / ONNX_FILE)}
    for engine in engines.values():
        engine.images_per_second(_BATCH, 0)
    raw = alternate(
        {
            "int8": lambda: engines["int8"].images_per_second(_BATCH, plan.slow_s),
            "float32": lambda: engines["float32"].images_per_second(_BATCH, plan.slow_s),
        },
        plan.rounds,
        "int8",
    )
    found = ratio_of(raw, "int8", "float32") | {"unit": "images/s", "batch": _BATCH}
    return found | _accuracy(plan, folder)


def _quantized(network: Path, crops: NDArray[np.uint8], folder: Path) -> Path:
    folder.mkdir(parents=True)
    quantize_network(network / ONNX_FILE, read_manifest(network), crops, folder / ONNX_FILE)
    return folder / ONNX_FILE


def _accuracy(plan: Plan, folder: Path) -> Figures:
    """Best accuracy of the bundled network, on other people than those of the calibration."""
    if not _FACES.is_dir():
        return {"accuracy": f"not measured: {_FACES} is not there"}
    people = list(read_identities(_FACES).images.values())[: _QUICK_PEOPLE if plan.quick else None]
    half = len(people) // 2
    calibration_crops, _ = _read(people[:half])
    crops, persons = _read(people[half:])
    # From all of these people, not only the first.
    step = max(1, len(calibration_crops) // _CALIBRATION)
    calibration = calibration_crops[::step]
    version = export_default(folder / "default")
    order = read_manifest(version).channel_order
    quantized = _quantized(version, calibration, folder / "default-int8")
    best = {}
    for name, file in (("float32", version / ONNX_FILE), ("int8", quantized)):
        session = OnnxSession(file, order)
        starts = range(0, len(crops), _BATCH)
        features = np.concatenate([session.run(crops[at : at + _BATCH]) for at in starts])
        embedded = (features, persons)
        best[name] = figures(embedded, embedded, features).accuracy_at_fewest
    return {
        "accuracy": best,
        "accuracy_loss": best["float32"] - best["int8"],
        "people": len(people) - half,
        "images": len(crops),
    }


def _read(people: Iterable[list[Path]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    reader = FaceReader(ImageLimits())
    crops, persons = [], []
    for person, images in enumerate(people):
        for image in images:
            crops.append(reader.crop(FaceImage(image.read_bytes(), "aligned")))
            persons.append(person)
    return np.stack(crops), np.array(persons, np.int64)
