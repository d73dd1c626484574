"""Random streams that differ from all streams of the user. All random numbers of the package come from them.

The user draws true codes and noise from NumPy's ``default_rng(seed)`` and PyTorch's ``manual_seed(seed)``. A search
with starts from the same seed would begin at the truth, and look better than it is. Adding keys to the seed is not
enough: NumPy pads entropy with zeros, so ``default_rng([seed, 0])`` equals ``default_rng(seed)``. A stream here has a
*purpose* and keys (a seed, an index, the name of a generator). They are hashed with SHA-256 to 256 bits of entropy, so
two streams are equal only if purpose and keys are equal, and no stream equals that of a seed that a user would choose.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch


def stream(purpose: str, *keys: int | float | str) -> np.random.Generator:
    """Make a NumPy generator for one purpose, such as ``stream("starts", seed)``.

    The truths, the noise, the starts and the baselines of an experiment are different purposes.

    Args:
        purpose: what is drawn.
        keys: numbers and names that distinguish streams of this purpose; NumPy and Python numbers are equivalent.
    """
    name = json.dumps(["unrelu", purpose, *(key.item() if isinstance(key, np.generic) else key for key in keys)])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest(), "little"))


def torch_stream(purpose: str, *keys: int | float | str) -> torch.Generator:
    """Make a PyTorch generator on the CPU, seeded with 63 bits of :func:`stream`."""
    return torch.Generator().manual_seed(int(stream(purpose, *keys).integers(2**63)))
