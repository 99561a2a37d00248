"""Array types of the selection."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
# Numbers of images, links or persons.
NumberArray = NDArray[np.int64]
