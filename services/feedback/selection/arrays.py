"""Array types of the selection."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
# Numbers of images, links or persons.
IndexArray = NDArray[np.int64]
