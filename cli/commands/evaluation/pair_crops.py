"""Aligned face crops of a pair set."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cli.images import Alignment
from shared.datasets.pairs import PairSet
from shared.errors import InvalidInput
from shared.evaluation.embed import CropReader
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits

_SETTLED: Final[dict[Alignment, Literal["aligned", "detect"]]] = {
    Alignment.ALIGNED: "aligned",
    Alignment.DETECT: "detect",
}


def pair_crops(pair_set: PairSet, alignment: Alignment) -> CropReader:
    """Makes a function that decodes and aligns an image of the set; errors name the image."""
    reader = FaceReader(ImageLimits())

    def crop(image: int) -> NDArray[np.uint8]:
        data, name = pair_set.data(image), pair_set.name(image)
        if alignment is not Alignment.AUTO:
            return reader.crop(FaceImage(data, _SETTLED[alignment]), name)
        try:
            # Takes what is 112x112. To look at the size first would be to open it twice.
            return reader.crop(FaceImage(data), name)
        except InvalidInput as error:
            if error.field != f"{name}.alignment":
                raise
            return reader.crop(FaceImage(data, "detect"), name)

    return crop
