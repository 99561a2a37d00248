"""Array types that the trainer's packages share."""

import numpy as np
from numpy.typing import NDArray

# uint8 [N, 112, 112, 3], BGR.
Crops = NDArray[np.uint8]
# float32 [N, D], the network's output before normalisation.
Features = NDArray[np.float32]
# int64, positions in a list of images.
Indices = NDArray[np.int64]
