"""Translate PyTorch's functions that move the entries of a tensor into the parts of a chain of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import torch

from unrelu.errors import UnsupportedModelError
from unrelu.loaders._torch_operations import Flow, Part, shown, zeros
from unrelu.models.affine import ConvTranspose, Pad, Reshape


def reshape(method: str, x: Flow, *args: Any, **kwargs: Any) -> list[Part]:
    """A tensor method that gives the same entries another shape."""
    meta = getattr(x.meta(), method)(*args, **kwargs)
    if meta.dtype != torch.float64:
        raise UnsupportedModelError(f"reinterprets the data as {meta.dtype}")
    return [_reshaped(x, meta.shape)]


def _reshaped(flow: Flow, full: Sequence[int]) -> Reshape:
    """The step from ``flow`` to the shape ``full``, whose first entry must be the untouched batch axis."""
    shape = tuple(int(n) for n in full)
    if not shape or shape[0] != flow.batch:
        before, after = shown((flow.batch, *flow.shape)), shown(shape)
        raise UnsupportedModelError(f"reshapes {before} to {after}, which mixes the batch axis with the others")
    return Reshape(shape[1:])


def getitem(x: Flow, index: Any) -> list[Part]:
    """x[:, a:b, None, i]: a crop, then a reshape. The batch axis must be kept whole; steps must be 1."""
    items = index if isinstance(index, tuple) else (index,)
    if any(type(item) not in (int, slice, type(None), EllipsisType) for item in items):
        raise UnsupportedModelError(f"indexes the data by {index}; only integers, slices, None and ... are supported")
    kept = torch.arange(math.prod(x.shape)).reshape(x.shape).expand(x.batch, *x.shape)[index]
    if not kept.dim() or len(kept) != x.batch:
        raise UnsupportedModelError(f"indexes the batch axis by {items[0]}; the first axis must be kept whole")
    if not kept.numel():
        raise UnsupportedModelError(f"keeps nothing of an input of shape {x.shape}")
    places = np.unravel_index(kept[0].reshape(-1).numpy(), x.shape)
    first, end = [int(place.min()) for place in places], [int(place.max()) + 1 for place in places]
    if math.prod(e - f for f, e in zip(first, end, strict=True)) != kept[0].numel():
        raise UnsupportedModelError("takes entries of an axis that are not side by side; only steps of 1 are supported")
    step = zeros([-f for f in first], [e - n for e, n in zip(end, x.shape, strict=True)])
    return [*([step] if any(step.widths) else []), _reshaped(x, kept.shape)]


def pixel_shuffle(x: Flow, upscale_factor: int) -> list[Part]:
    """(C r^2, H, W) -> (C, r H, r W): output (c, r h + i, r w + j) is input (c r^2 + r i + j, h, w).

    This is a transposed convolution with one group per output channel and a single 1 in each kernel.
    """
    r, shape = upscale_factor, x.shape
    if len(shape) != 3 or shape[0] % r**2:
        raise UnsupportedModelError(f"shuffles pixels by {r}, which does not fit an input of shape {shape}")
    kernels = torch.eye(r**2, dtype=torch.float64).reshape(r**2, 1, r, r)
    weight = kernels.repeat(shape[0] // r**2, 1, 1, 1)
    return [ConvTranspose(weight, None, (r, r), (0, 0), (0, 0), (1, 1), shape[0] // r**2)]


def pad(x: Flow, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> list[Part]:
    """Zeros around the trailing axes; negative widths crop."""
    if mode != "constant" or value:
        raise UnsupportedModelError(f"pads with mode={mode!r}, value={value}; only zeros are supported")
    if len(pad) > 2 * len(x.shape):
        raise UnsupportedModelError("pads the batch axis")
    return [Pad(tuple(int(n) for n in pad))]


def unchanged(x: Flow, *args: Any, **kwargs: Any) -> list[Part]:
    """The same numbers, as real numbers."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.dtype) and not value.is_floating_point:
            raise UnsupportedModelError(f"converts the data to {value}; only real numbers can be inverted")
    return []
