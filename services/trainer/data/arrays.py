"""Array types that the trainer's packages share."""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]


Indices = NDArray[np.int64]


Crops = NDArray[np.uint8]


Features = NDArray[np.float32]
