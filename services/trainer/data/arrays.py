"""Array types of the trainer."""

import numpy as np
from numpy.typing import NDArray

# uint8 [N, 112, 112, 3], BGR: aligned face crops.
CropArray = NDArray[np.uint8]
# float32 [N, D]: network output, not normalised.
FeatureArray = NDArray[np.float32]
# int64, any shape: positions in a list of images.
IndexArray = NDArray[np.int64]
