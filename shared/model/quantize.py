"""Static 8-bit quantization of a network with onnxruntime.

Weights are quantized per output channel, activations by their range on calibration faces.
Convolutions, additions and the last layer compute with integers. BatchNorm and PReLU, for which
onnxruntime has no integer kernel, stay in float. Activations are unsigned and weights signed, as
the VNNI dot product instructions need; ``docs/serving.md`` has the measurements of other choices.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from shared.errors import PreconditionFailed
from shared.model.golden import golden_crops, make_golden
from shared.model.manifest import ONNX_FILE, WEIGHTS_FILE, Manifest, describe_file
from shared.model.sessions.base import network_input
from shared.model.sessions.onnx import open_network

_OPERATORS = ("Conv", "Gemm", "Add")
_PERCENTILE = 99.99
# All activations of a batch are in memory, 60 MB for each image with an iResNet-18.
_CALIBRATION_BATCH = 8


class _CropBatches(CalibrationDataReader):  # type: ignore[misc]
    """Batches of crops; with `set_range` onnxruntime selects some of them."""

    def __init__(self, crops: NDArray[np.uint8], manifest: Manifest) -> None:
        self._batches = [
            crops[at : at + _CALIBRATION_BATCH] for at in range(0, len(crops), _CALIBRATION_BATCH)
        ]
        self._manifest = manifest
        self._remaining = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._remaining = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        crops = next(self._remaining, None)
        if crops is None:
            return None
        return {"images": network_input(crops, self._manifest.channel_order, self._manifest.scale)}


def quantize_network(
    network: Path, manifest: Manifest, crops: NDArray[np.uint8], file: Path
) -> None:
    """Write the quantized form of a network.

    Args:
        network: ONNX file of a version, as `export_version` writes it.
        manifest: Manifest of that version.
        crops: uint8 [N, 112, 112, 3], BGR; calibration faces, which must not be among the faces
            that the result is measured on.
        file: The file to write.

    Raises:
        PreconditionFailed: If the network is already quantized.
    """
    graph = onnx.load(network).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        version = manifest.model_version
        raise PreconditionFailed(f"{version} is already quantized; name its parent instead")
    with _quiet_root_logger():
        quantize_static(
            network,
            file,
            _CropBatches(crops, manifest),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": _PERCENTILE, "CalibStridedMinMax": 1},
        )


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """Suppress warnings that the quantizer logs on the root logger and that do not apply here."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def write_quantized_version(
    parent: Path, network: Path, folder: Path, manifest: Manifest, **fields: Any
) -> Manifest:
    """Write the folder of a version with a quantized network.

    Its weights are those of the parent, and training from it starts from these.

    Args:
        parent: Folder of the version that was quantized.
        network: The file that `quantize_network` wrote.
        folder: Created; its name is the name of the version.
        manifest: Manifest of the parent.
        fields: Fields of the manifest that differ from the parent's, without the files and the
            golden crops, which this function computes.

    Raises:
        CorruptData: If the output of the network is NaN or zero.
        pydantic.ValidationError: If a field is invalid.
    """
    folder.mkdir(parents=True)
    shutil.copyfile(network, folder / ONNX_FILE)
    shutil.copyfile(parent / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    session = open_network(folder / ONNX_FILE, manifest)
    fields |= {
        "model_version": folder.name,
        "files": {name: describe_file(folder / name) for name in (ONNX_FILE, WEIGHTS_FILE)},
        "golden": make_golden(session, golden_crops(manifest)),
    }
    made = Manifest.model_validate(dict(manifest) | fields)
    made.write(folder)
    return made
