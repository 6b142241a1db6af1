"""The types of numpy arrays by what they hold, of any shape."""

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Intp = npt.NDArray[np.intp]
Ints = npt.NDArray[np.integer]
UInt16 = npt.NDArray[np.uint16]
