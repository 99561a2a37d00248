"""Model versions to serve: iResNet-18, variants of it, and one that costs almost nothing."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.model.default.crops import default_golden_crops
from shared.model.golden import make_golden
from shared.model.manifest import ONNX_FILE, FileEntry, Manifest
from shared.model.sessions.base import CPU_BATCH_IMAGES, Device
from shared.model.sessions.onnx import OnnxSession
from tests.shared.model.made_weights import LAYOUTS, made_state, official_shapes

_SIZE = 512
_WIDTHS = (64, 128, 256, 512)
_QUICK_WIDTHS = (4, 8, 16, 32)
_INPUT, _OUTPUT = "images", "features"


class BenchVersions:
    """Folders of versions, created once and reused by later runs.

    Args:
        folder: The parent folder of the versions.
        quick: Whether iResNet-18 is narrow, for a run whose figures mean nothing.
    """

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self._widths = _QUICK_WIDTHS if quick else _WIDTHS
        self._folder = folder / ("quick" if quick else "real")

    def iresnet18(self) -> Path:
        """iResNet-18 of full width with random weights, which cost as much as trained ones."""
        folder = self._folder / "iresnet18"
        if not (folder / "manifest.json").exists():
            write_version(folder, _export_iresnet18(self._folder / "export", self._widths))
        return folder

    def almost_free(self) -> Path:
        """A version whose network returns a slice of its input."""
        folder = self._folder / "almost-free"
        if not (folder / "manifest.json").exists():
            write_version(folder, almost_free_network())
        return folder

    def differing(self, network: Path, name: str, seed: int) -> Path:
        """A version that costs as much as another and computes different embeddings.

        Args:
            network: Folder of the other version.
            name: Name of this version.
            seed: Chooses the coordinates whose sign changes.
        """
        folder = self._folder / name
        if not (folder / "manifest.json").exists():
            write_version(folder, with_signs(onnx.load(network / ONNX_FILE), seed))
        return folder


def write_version(folder: Path, network: onnx.ModelProto) -> None:
    """Write a network as a model version, with golden crops."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ONNX_FILE
    onnx.save(network, path)
    data = path.read_bytes()
    Manifest(
        model_version=folder.name,
        architecture="bench",
        embedding_size=_SIZE,
        channel_order="bgr",
        threshold=0.3,
        magnitude_quantiles=(0.1, 1000.0),
        parent_version=None,
        job_id="bench",
        data_snapshot=None,
        created_at=datetime.now(UTC),
        files={ONNX_FILE: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))},
        golden=make_golden(OnnxSession(path, "bgr"), default_golden_crops()),
    ).write(folder)


def almost_free_network() -> onnx.ModelProto:
    """Make a network that returns 512 values of each image, plus one half."""
    slice_ = {"starts": [0, 0, 0], "ends": [1, 8, 64], "axes": [1, 2, 3]}
    constants = [
        numpy_helper.from_array(np.array(value, np.int64), name) for name, value in slice_.items()
    ]
    # A black image must not give a vector of length zero.
    constants.append(numpy_helper.from_array(np.float32(0.5), "half"))
    nodes = [
        helper.make_node("Slice", [_INPUT, *slice_], ["patch"]),
        helper.make_node("Flatten", ["patch"], ["flat"], axis=1),
        helper.make_node("Add", ["flat", "half"], [_OUTPUT]),
    ]
    inputs = helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, ["batch", 3, 112, 112])
    outputs = helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, ["batch", _SIZE])
    graph = helper.make_graph(nodes, "almost_free", [inputs], [outputs], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def with_signs(network: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Change the sign of some output coordinates of a network, in place.

    Args:
        network: Has one output, float32 [batch, 512].
        seed: Chooses the coordinates.
    """
    output = network.graph.output[0]
    before = f"{output.name}_before_signs"
    for node in network.graph.node:
        names = [before if name == output.name else name for name in node.output]
        del node.output[:]
        node.output.extend(names)
    signs = np.random.default_rng(seed).choice(np.float32([-1, 1]), _SIZE)
    network.graph.initializer.append(numpy_helper.from_array(signs, "signs"))
    network.graph.node.append(helper.make_node("Mul", [before, "signs"], [output.name]))
    return network


def reference_vectors(
    folder: Path, crops: NDArray[np.uint8], device: Device = "cpu"
) -> NDArray[np.float32]:
    """Compute the embeddings of crops with onnxruntime: float32 [N, 512], unit rows."""
    session = OnnxSession(folder / ONNX_FILE, "bgr", device=device, batch_images=CPU_BATCH_IMAGES)
    raw = session.run(crops).astype(np.float64)
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def _export_iresnet18(folder: Path, widths: tuple[int, ...]) -> onnx.ModelProto:
    # Imported here because torch takes seconds to import and is needed only once.
    import torch

    from shared.model.export import export_version
    from shared.model.network.iresnet import IResNet, spec_from_shapes

    shapes = official_shapes(LAYOUTS["iresnet18"], widths, _SIZE)
    network = IResNet(spec_from_shapes(shapes))
    network.load_state_dict({k: torch.from_numpy(v) for k, v in made_state(shapes).items()})
    if not folder.exists():
        export_version(
            network.eval(),
            folder,
            model_version="export",
            channel_order="bgr",
            threshold=0.3,
            magnitude_quantiles=(0.1, 1000.0),
            golden_crops=default_golden_crops(),
            job_id="bench",
        )
    return onnx.load(folder / ONNX_FILE)
