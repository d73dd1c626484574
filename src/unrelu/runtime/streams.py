"""Random streams that never meet a user's: everything random in the package is drawn from one of these.

NumPy's ``default_rng(seed)`` and PyTorch's ``manual_seed(seed)`` belong to the user, who draws true codes and noise
from them. A search that drew its starts from the same seed would begin at the truth, and be reported as a good one.
Keys beside the seed are not enough: NumPy pads entropy with zeros, so ``default_rng([seed, 0])`` is
``default_rng(seed)``. So a stream here has a *purpose*, and keys within it (a seed, an index, the name of a generator).
Purpose and keys are hashed with SHA-256 to 256 bits of entropy: two streams are the same only if all of these are, and
none is that of a number that anybody would write.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch


def stream(purpose: str, *keys: int | float | str) -> np.random.Generator:
    """A NumPy generator of its own for a purpose, say ``stream("starts", seed)``.

    The truths, the noise, the starts and the baselines of an experiment are different purposes.

    Args:
        purpose: what is drawn.
        keys: numbers and names that tell streams of this purpose apart; NumPy's numbers count as Python's.
    """
    name = json.dumps(["unrelu", purpose, *(key.item() if isinstance(key, np.generic) else key for key in keys)])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest(), "little"))


def torch_stream(purpose: str, *keys: int | float | str) -> torch.Generator:
    """The same for PyTorch: a generator on the CPU, seeded with 63 bits of :func:`stream`."""
    return torch.Generator().manual_seed(int(stream(purpose, *keys).integers(2**63)))
