"""Vectors of numpy, torch, or anything with DLPack, as one float32 array."""

import numpy as np


def as_float32(vectors):
    """`[n, d]` of float32, C-contiguous. `[d]` is one vector; a list of vectors is stacked.

    Nothing is copied that is float32 and contiguous already, and lies in memory that numpy can see.
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
        raise ValueError(f"vectors: expected numbers [n, d_model] or [d_model], found {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _array(vector):
    if isinstance(vector, np.ndarray):
        return vector
    if hasattr(vector, "detach"):
        # A tensor of torch: numpy knows neither its gradients, nor bfloat16, nor a GPU's memory.
        vector = vector.detach().cpu()
        if str(vector.dtype) == "torch.bfloat16":
            vector = vector.float()
    if hasattr(vector, "__dlpack__"):
        return np.from_dlpack(vector)
    return np.asarray(vector)
