"""CUDA support for ONNX Runtime sessions: device buffers and half precision."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shared.errors import PreconditionFailed

_QUANTIZED = "QuantizeLinear"


class BoundRuns:
    """Runs a session with preallocated device buffers, one pair for each batch size.

    Without them each run allocates its input and output on the device.

    Args:
        session: From one float32 tensor to one float32 [batch, size].
        device: Device name of onnxruntime.
        size: Length of a row of the output.
    """

    def __init__(self, session: ort.InferenceSession, device: str, size: int) -> None:
        self._session = session
        self._device = device
        self._size = size
        self._bound: dict[int, tuple[Any, ort.OrtValue, ort.OrtValue]] = {}

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute a batch.

        Returns:
            float32 [batch, size]; later calls do not overwrite it.
        """
        if len(images) not in self._bound:
            self._bound[len(images)] = self._bind(images)
        binding, taken, given = self._bound[len(images)]
        taken.update_inplace(np.ascontiguousarray(images))
        self._session.run_with_iobinding(binding)
        features: NDArray[np.float32] = given.numpy().copy()
        return features

    def _bind(self, images: NDArray[np.float32]) -> tuple[Any, ort.OrtValue, ort.OrtValue]:
        rows = (len(images), self._size)
        taken, given = (
            ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)
            for shape in (images.shape, rows)
        )
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._session.get_inputs()[0].name, taken)
        binding.bind_ortvalue_output(self._session.get_outputs()[0].name, given)
        return binding, taken, given


def in_half_precision(file: Path) -> bytes:
    """Return an ONNX network converted to float16, with float32 input and output.

    Raises:
        PreconditionFailed: If the package onnx is not installed, or the network is quantized.
    """
    try:
        import onnx  # noqa: PLC0415
        from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415
    except ImportError as error:
        raise PreconditionFailed(
            f"precision fp16 was requested and needs the package onnx, but {error}"
        ) from error
    network = onnx.load(file)
    if any(node.op_type == _QUANTIZED for node in network.graph.node):
        raise PreconditionFailed(
            f"{file.name} is quantized, which excludes half precision; request precision fp32"
        )
    half: bytes = convert_float_to_float16(network, keep_io_types=True).SerializeToString()
    return half
