"""Type aliases for arrays and shapes."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]
Integers = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]
Shape = tuple[int, ...]
