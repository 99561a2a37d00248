"""The network that all servers use: OpenCV for JPEGs, and onnxruntime with our settings."""

import os

import cv2
import numpy as np
import onnxruntime as ort

PORT = int(os.environ["PEER_PORT"])
BATCH = 32


def decode(jpeg: bytes) -> np.ndarray:
    """Decode a crop: uint8 [112, 112, 3], BGR."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


class Network:
    """The ONNX file that the environment variable PEER_NETWORK names."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["PEER_THREADS"])
        options.log_severity_level = 3
        # As in our embedder: spinning threads would take the cores from the client.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.environ["PEER_NETWORK"]
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def embed(self, crops: list[np.ndarray]) -> np.ndarray:
        """Compute unit vectors, float32 [N, 512], of N crops, uint8 [112, 112, 3] each."""
        planes = np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))
        images = np.multiply(planes, np.float32(1 / 255), dtype=np.float32)
        raw = self._session.run(None, {self._input: images})[0]
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)
