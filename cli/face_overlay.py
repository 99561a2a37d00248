"""Drawing of detected faces into a photograph, each with its number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from magface.v1 import image_pb2
from numpy.typing import NDArray

from cli.images import read_image
from shared.errors import InvalidInput
from shared.files import open_atomic
from shared.model.image.decode import decode_image
from shared.settings import ImageLimits

_FRAME: Final = (60, 200, 40)
_POINT: Final = (40, 120, 255)
_INK: Final = (0, 0, 0)
# Lines and numbers are drawn for a picture of this length and scaled with it.
_USUAL_LENGTH: Final = 640


def write_overlay(photo: Path, faces: Sequence[image_pb2.DetectedFace], out: Path) -> None:
    """Writes a photograph with the box, the landmarks and the number of each face.

    Args:
        photo: The photograph; it is drawn as it is seen, after EXIF rotation.
        faces: In the order of their numbers, which begin with 1.
        out: The picture to write; its suffix gives the format.

    Raises:
        InvalidInput: If the photograph cannot be decoded, or OpenCV writes no such format.
    """
    image = decode_image(read_image(photo), ImageLimits(), str(photo)).copy()
    for number, face in enumerate(faces, 1):
        _draw(image, face, str(number))
    try:
        done, encoded = cv2.imencode(out.suffix, image)
    except cv2.error:
        done = False
    if not done:
        raise InvalidInput(str(out), "is of no picture format: end it with .png or .jpg")
    with open_atomic(out) as file:
        file.write(encoded.tobytes())


def _draw(image: NDArray[np.uint8], face: image_pb2.DetectedFace, label: str) -> None:
    scale = max(1.0, max(image.shape[:2]) / _USUAL_LENGTH)
    width = round(2 * scale)
    box = face.box
    left, top = round(box.x), round(box.y)
    corner = (round(box.x + box.width), round(box.y + box.height))
    cv2.rectangle(image, (left, top), corner, _FRAME, width)
    for point in face.landmarks:
        centre = (round(point.x), round(point.y))
        cv2.circle(image, centre, width, _POINT, cv2.FILLED, cv2.LINE_AA)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.7 * scale
    (text_width, text_height), _ = cv2.getTextSize(label, font, size, width)
    # Inside the picture, also where the box begins outside it.
    left = min(max(left, 0), max(image.shape[1] - text_width - 2 * width, 0))
    bottom = min(max(top, text_height + 2 * width), image.shape[0])
    below = (left + text_width + 2 * width, bottom - text_height - 2 * width)
    cv2.rectangle(image, (left, bottom), below, _FRAME, cv2.FILLED)
    cv2.putText(image, label, (left + width, bottom - width), font, size, _INK, width, cv2.LINE_AA)
