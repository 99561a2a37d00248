"""Model versions that must never serve, each damaged in a different way."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from shared.model.manifest import ONNX_FILE, FileEntry, read_manifest

ONNX_KEY = "models/{version}/model.onnx"


def renamed(folder: Path, to: Path, **changes: object) -> Path:
    """Copy a version's folder under a new name, with changes to its manifest."""
    shutil.copytree(folder, to)
    sealed(to, model_version=to.name, **changes)
    return to


def sealed(folder: Path, **changes: object) -> None:
    """Rewrite the manifest so that its checksums fit the files again."""
    files = {}
    for name in read_manifest(folder).files:
        data = (folder / name).read_bytes()
        files[name] = FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    read_manifest(folder).model_copy(update={"files": files, **changes}).write(folder)


def garbage(folder: Path, _: Path) -> None:
    (folder / ONNX_FILE).write_bytes(bytes(range(256)) * 100)
    sealed(folder)


def nan_weights(folder: Path, _: Path) -> None:
    network = onnx.load(folder / ONNX_FILE)
    for tensor in network.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim == 4:
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32("nan"), tensor.name))
    onnx.save(network, folder / ONNX_FILE)
    sealed(folder)


def wrong_size(folder: Path, _: Path) -> None:
    sealed(folder, embedding_size=64)


def golden_mismatch(folder: Path, other: Path) -> None:
    """Give it another version's network."""
    shutil.copy(other / ONNX_FILE, folder / ONNX_FILE)
    sealed(folder)
