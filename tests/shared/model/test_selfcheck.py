import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from shared.errors import CorruptData
from shared.model.golden import check_golden, golden_crops
from shared.model.manifest import ONNX_FILE, GoldenCrop, Manifest, read_manifest
from shared.model.sessions.base import Engine
from shared.model.sessions.factory import open_session


def change_weights(version: Path, folder: Path, scale: float) -> Path:
    """Copy a version and scale the largest tensor of its ONNX file."""
    shutil.copytree(version, folder)
    model = onnx.load(folder / ONNX_FILE)
    largest = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = onnx.numpy_helper.to_array(largest) * np.float32(scale)
    largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
    onnx.save(model, folder / ONNX_FILE)
    return folder


def with_golden(version: Path, **fields: Any) -> Manifest:
    manifest = read_manifest(version)
    golden = [GoldenCrop(**{**manifest.golden[0].model_dump(), **fields}), *manifest.golden[1:]]
    return manifest.model_copy(update={"golden": tuple(golden)})


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_sound_version_passes_with_either_engine(engine: Engine, narrow_version: Path) -> None:
    check_golden(open_session(narrow_version, engine), read_manifest(narrow_version))


def test_golden_faces_are_kept_to_the_pixel(narrow_version: Path, crops: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(golden_crops(read_manifest(narrow_version)), crops)


@pytest.mark.parametrize(
    ("scale", "why"), [(1.1, "cosine|magnitude"), (np.nan, "NaN"), (-1.0, "cosine")]
)
def test_other_weights_are_noticed(
    scale: float, why: str, narrow_version: Path, tmp_path: Path
) -> None:
    folder = change_weights(narrow_version, tmp_path / "x", scale)
    with pytest.raises(CorruptData, match=why):
        check_golden(open_session(folder), read_manifest(folder))


def test_the_other_channel_order_is_noticed(narrow_version: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(narrow_version, tmp_path / "x")
    manifest = read_manifest(folder).model_copy(update={"channel_order": "rgb"})
    manifest.write(folder)
    with pytest.raises(CorruptData, match="self-check of iresnet18w4-00000000"):
        check_golden(open_session(folder), manifest)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"embedding": base64.b64encode(bytes(31 * 4)).decode()}, "124 bytes instead of 128"),
        ({"embedding": "no base64!"}, "not base64"),
        ({"embedding": base64.b64encode(bytes(32 * 4)).decode()}, "all zeros"),
        ({"png": base64.b64encode(b"no picture").decode()}, "not a 112x112 PNG"),
        ({"png": ""}, "not a 112x112 PNG"),
        ({"magnitude": 1.0}, "magnitude"),
    ],
)
def test_damaged_golden_faces_are_noticed(
    fields: dict[str, Any], why: str, narrow_version: Path
) -> None:
    with pytest.raises(CorruptData, match=why):
        check_golden(open_session(narrow_version), with_golden(narrow_version, **fields))
