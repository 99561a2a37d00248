"""A network in eight bits: the same weights and activations as whole numbers.

Static quantization with onnxruntime: each weight by its output channel, each activation by
the range that it takes on calibration faces. Convolutions, additions and the last layer
compute in whole numbers; BatchNorm and PReLU, of which onnxruntime has no such form, stay
float between them. Activations are unsigned and weights signed, which is what the processors'
dot products (VNNI) take; what was measured of other choices is in ``docs/serving.md``.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from shared.model.golden import golden_crops, make_golden
from shared.model.manifest import ONNX_FILE, WEIGHTS_FILE, Manifest, describe_file
from shared.model.sessions.base import network_input
from shared.model.sessions.onnx import open_network

_OPERATORS = ("Conv", "Gemm", "Add")
_PERCENTILE = 99.99
# All activations of a batch are in memory at once: 60 MB an image of an iResNet-18.
_AT_ONCE = 8


class _Faces(CalibrationDataReader):  # type: ignore[misc]
    """Gives batches of crops; by `set_range` onnxruntime asks for some of them at a time."""

    def __init__(self, crops: NDArray[np.uint8], manifest: Manifest) -> None:
        self._batches = [crops[at : at + _AT_ONCE] for at in range(0, len(crops), _AT_ONCE)]
        self._manifest = manifest
        self._asked_for = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._asked_for = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        crops = next(self._asked_for, None)
        if crops is None:
            return None
        return {"images": network_input(crops, self._manifest.channel_order, self._manifest.scale)}


def quantize_network(
    network: Path, manifest: Manifest, crops: NDArray[np.uint8], file: Path
) -> None:
    """Write the quantized form of a network.

    Args:
        network: ONNX file of a version, as `export_version` writes it.
        manifest: Of that version.
        crops: uint8 [N, 112, 112, 3], BGR; faces to calibrate on, none of those that the
            result is to be measured on.
        file: Is written.
    """
    with _quietly():
        quantize_static(
            network,
            file,
            _Faces(crops, manifest),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": _PERCENTILE, "CalibStridedMinMax": 1},
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep it from advising on the root logger what does not apply here."""
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
    """Make the folder of a version whose network is quantized.

    Its weights are the parent's: what is trained from it starts from there.

    Args:
        parent: Folder of the version that was quantized.
        network: What `quantize_network` wrote.
        folder: Is made; the version has its name.
        manifest: The parent's.
        fields: Of the manifest, that differ from the parent's. The files and what the
            golden faces give are found out here.

    Raises:
        CorruptData: If the network's output is NaN or zero.
        pydantic.ValidationError: If a field breaks the manifest's format.
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
