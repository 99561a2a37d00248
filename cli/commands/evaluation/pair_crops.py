"""Aligned face crops of a pair set."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cli.images import AlignmentChoice
from shared.datasets.pairs import PairSet
from shared.errors import InvalidInput
from shared.evaluation.embed import CropReader
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits

_EXPLICIT: Final[dict[AlignmentChoice, Literal["aligned", "detect"]]] = {
    AlignmentChoice.ALIGNED: "aligned",
    AlignmentChoice.DETECT: "detect",
}


def pair_crops(pair_set: PairSet, alignment: AlignmentChoice) -> CropReader:
    """Makes a function that decodes and aligns an image of the set; its errors name the image."""
    reader = FaceReader(ImageLimits())

    def crop(image: int) -> NDArray[np.uint8]:
        data, name = pair_set.data(image), pair_set.name(image)
        if alignment is not AlignmentChoice.AUTO:
            return reader.crop(FaceImage(data, _EXPLICIT[alignment]), name)
        if known := pair_set.face(image):
            return reader.crop(known, name)
        try:
            # Only accepts 112x112. Reading the size first would open the image twice.
            return reader.crop(FaceImage(data), name)
        except InvalidInput as error:
            if error.field != f"{name}.alignment":
                raise
            return reader.crop(FaceImage(data, "detect"), name)

    return crop
