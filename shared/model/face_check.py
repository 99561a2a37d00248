"""Check whether an aligned crop shows a face at all, with a small network of its own."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.model.sessions.base import check_crops
from shared.model.sessions.onnx import open_onnx

FACE_CHECK_FILE: Final = Path(__file__).with_name("default") / "face_check.onnx"
# The network's output is a logit. Chosen on held-out faces and pictures by
# `python -m tests.shared.model.face_check`; see the README in `default`.
MIN_SCORE: Final = 0.5
# The network sees 28x28 pixels.
_BLOCK: Final = 4


class FaceCheck:
    """Tells crops that show an upright face at the template's place from all others.

    It depends on the pixels only, so it gives the same result for every model version. A crop
    costs about 20 microseconds of one CPU. Threads may share it.
    """

    def __init__(self) -> None:
        # The network is too small for more than one thread.
        self._session = open_onnx(FACE_CHECK_FILE, "cpu", threads=1)

    def shows_face(self, crops: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Say for each crop whether it shows a face.

        Args:
            crops: uint8 [N, 112, 112, 3], N >= 1, BGR.

        Returns:
            bool [N].

        Raises:
            InvalidInput: If the crops have another shape or dtype.
        """
        return self.scores(crops) >= MIN_SCORE

    def scores(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the log odds that each crop shows a face: float32 [N]; see `shows_face`."""
        check_crops(crops)
        scores: NDArray[np.float32] = self._session.run(None, {"pixels": reduced(crops)})[0]
        return scores


def reduced(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reduce crops to the input of the network.

    Four of the sixteen green pixels of each 4x4 block are added: slices are much faster than
    `cv2.resize`, and the average of four is enough against noise.

    Args:
        crops: uint8 [N, 112, 112, 3].

    Returns:
        float32 [N, 1, 28, 28], sums of four pixels, 0..1020.
    """
    green = crops[..., 1]
    samples = [green[:, y::_BLOCK, x::_BLOCK] for y in (1, 3) for x in (1, 3)]
    total = np.add(samples[0], samples[1], dtype=np.float32)
    total += samples[2]
    total += samples[3]
    return total[:, np.newaxis]
