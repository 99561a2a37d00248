"""Reads the faces of a set of pairs as the other commands read pictures."""

import numpy as np
from numpy.typing import NDArray

from cli.pictures import Alignment, settle
from shared.datasets.pairs import PairSet
from shared.evaluation.embed_set import Crops
from shared.model.faces import FaceImage, FaceReader
from shared.settings import ImageLimits


def pair_crops(pair_set: PairSet, alignment: Alignment) -> Crops:
    """Makes what decodes and aligns the images of a set; its errors name the image."""
    reader = FaceReader(ImageLimits())

    def crop(image: int) -> NDArray[np.uint8]:
        data = pair_set.data(image)
        return reader.crop(FaceImage(data, settle(data, alignment)), pair_set.name(image))

    return crop
