"""Check whether an aligned crop shows a face at all, with two small networks of its own."""

import threading
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import NoFace
from shared.model.image.face import FaceCrop, FaceImage
from shared.model.sessions.base import check_crops

_FOLDER: Final = Path(__file__).with_name("default")
FACE_CHECK_FILE: Final = _FOLDER / "face_check.onnx"
GATE_FILE: Final = _FOLDER / "face_check_gate.npz"
# Log odds, chosen on held-out faces and pictures; see the README in `default`. A crop with more by
# the gate is a face; the convolutional network decides on all others.
CLEAR_SCORE: Final = 2.5
MIN_SCORE: Final = 0.5
# The networks see 28x28 pixels.
_BLOCK: Final = 4
# Larger products are computed by several threads, which cost more than they save.
_GATE_CROPS: Final = 4


class FaceCheck:
    """Tells crops that show an upright face at the template's place from all others.

    It depends on the pixels only, so it gives the same result for every model version. Nearly all
    faces pass a gate, a perceptron that takes about 10 microseconds of one CPU; any other crop
    takes about 100 more. Threads may share it.
    """

    def __init__(self) -> None:
        with np.load(GATE_FILE) as weights:
            self._hidden, self._hidden_bias = weights["hidden"], weights["hidden_bias"]
            self._out, self._out_bias = weights["out"], float(weights["out_bias"][0])
        # Not onnxruntime, whose shared threads would spin after each run.
        self._network = cv2.dnn.readNetFromONNX(str(FACE_CHECK_FILE))
        self._lock = threading.Lock()

    def shows_face(self, crops: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Say for each crop whether it shows a face.

        Args:
            crops: uint8 [N, 112, 112, 3], N >= 1, BGR.

        Returns:
            bool [N].

        Raises:
            InvalidInput: If the crops have another shape or dtype.
        """
        check_crops(crops)
        pixels = reduced(crops)
        starts = range(0, len(pixels), _GATE_CROPS)
        gate = [self._gate_scores(pixels[start : start + _GATE_CROPS]) for start in starts]
        shows_face = np.concatenate(gate) >= CLEAR_SCORE
        if not shows_face.all():
            unclear = ~shows_face
            shows_face[unclear] = self._network_scores(pixels[unclear]) >= MIN_SCORE
        return shows_face

    def require_face(self, crop: FaceCrop, face: FaceImage, field: str) -> None:
        """Check that a crop shows a face, unless the detector found it there.

        Args:
            crop: Read from the face image.
            face: The face image.
            field: Its path in the request, for the error.

        Raises:
            NoFace: If it shows none.
        """
        if crop.face is None and not self.shows_face(crop.pixels[np.newaxis])[0]:
            raise no_face(face, field)

    def _gate_scores(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        hidden = pixels @ self._hidden
        hidden += self._hidden_bias
        np.maximum(hidden, 0, out=hidden)
        return np.asarray(hidden @ self._out + self._out_bias, np.float32)

    def _network_scores(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        side = int(pixels.shape[1] ** 0.5)
        with self._lock:
            self._network.setInput(pixels.reshape(-1, 1, side, side))
            return np.asarray(self._network.forward(), np.float32).reshape(-1)


def no_face(face: FaceImage, field: str) -> NoFace:
    """Make the error of an image whose crop shows no face.

    Args:
        face: The face image; aligned, or with landmarks.
        field: Its path in the request.
    """
    if face.landmarks:
        return NoFace(f"{field}.data", "shows no face where the landmarks are; check them")
    return NoFace(
        f"{field}.data",
        "shows no face; an aligned crop must show one upright, with the eyes, nose and mouth on "
        "the ArcFace template: send any other picture with alignment detect",
    )


def reduced(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reduce crops to the input of the networks.

    The mean of four of the sixteen green pixels of each 4x4 block, of zero mean and unit spread
    over the crop: slices are much faster than `cv2.resize`, and four are enough against noise.

    Args:
        crops: uint8 [N, 112, 112, 3].

    Returns:
        float32 [N, 784].
    """
    green = crops[..., 1]
    samples = [green[:, y::_BLOCK, x::_BLOCK] for y in (1, 3) for x in (1, 3)]
    total = np.add(samples[0], samples[1], dtype=np.float32)
    total += samples[2]
    total += samples[3]
    pixels = total.reshape(len(crops), -1)
    pixels *= 0.25
    pixels -= pixels.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.vecdot(pixels, pixels) / pixels.shape[1])
    # One more, so that noise in a crop of one colour stays small.
    pixels /= spread[:, np.newaxis] + 1
    return pixels
