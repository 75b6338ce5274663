"""Converts vectors of numpy, torch, or anything with DLPack to one float32 array."""

import numpy as np


def as_float32(vectors):
    """Returns `[n, d]` as C-contiguous float32. `[d]` is one vector; a list of vectors is stacked.

    Nothing is copied if the data is contiguous float32 in memory that numpy can access.
    """
    if isinstance(vectors, (list, tuple)):
        array = np.stack([_array(vector) for vector in vectors]) if vectors else np.empty((0, 0))
    else:
        array = _array(vectors)
    if array.ndim == 1:
        array = array[np.newaxis]
    elif array.ndim > 2:
        array = array.reshape(-1, array.shape[-1])
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        shape = list(array.shape)
        raise ValueError(f"vectors: expected numbers [n, d_model] or [d_model], found {array.dtype} {shape}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _array(vector):
    if isinstance(vector, np.ndarray):
        return vector
    if hasattr(vector, "detach"):
        # A torch tensor: numpy cannot read tensors with gradients, bfloat16, or GPU memory.
        vector = vector.detach().cpu()
        if str(vector.dtype) == "torch.bfloat16":
            vector = vector.float()
    if hasattr(vector, "__dlpack__"):
        return np.from_dlpack(vector)
    return np.asarray(vector)
