"""ONNX Resize as PyTorch resampling, where the two read the same entries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unrelu.affine import Resample
from unrelu.errors import UnsupportedModelError
from unrelu.loaders.chain import Flow

__all__ = ["resized"]

Array = npt.NDArray[np.float64]


def resized(
    flow: Flow, scales: npt.NDArray[Any] | None, sizes: npt.NDArray[Any] | None, attributes: dict[str, Any], opset: int
) -> Resample:
    """The resampling of the spatial axes by ``scales`` or to ``sizes``.

    Each output reads its input at a position x(i); the step is accepted if PyTorch reads the same positions.

    Raises:
        UnsupportedModelError: the mode, or the combination of rounding and coordinates, is not one of PyTorch's.

    Source: https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    before = (flow.batch, *flow.shape)
    given = sizes if scales is None or not np.size(scales) else scales
    if given is None or not np.size(given):
        raise UnsupportedModelError("has neither scales nor sizes")
    axes = [a % len(before) for a in attributes.get("axes", range(len(before)))]
    after, factors = list(before), [1.0] * len(before)
    for axis, value in zip(axes, given.tolist(), strict=True):
        after[axis] = math.floor(before[axis] * value) if given is scales else int(value)
        factors[axis] = value if given is scales else value / before[axis]
    if after[:2] != list(before[:2]) or len(before) not in (3, 4):
        raise UnsupportedModelError(
            f"resizes {flow.shape} to {tuple(after[1:])}; only the last one or two axes can change"
        )
    mode, coordinates, rounding = _modes(attributes, opset, given is sizes)
    names = {"nearest": "nearest", "linear": "linear" if len(before) == 3 else "bilinear"}
    step = Resample(tuple(after[2:]), names[mode], coordinates == "align_corners")
    for n, m, factor in zip(before[2:], after[2:], factors[2:], strict=True):
        one = Resample((m,), mode, coordinates == "align_corners")
        ours = one.apply(torch.arange(n, dtype=torch.float64)[None, None]).numpy()[0, 0]
        if not np.allclose(ours, _positions(n, m, factor, coordinates, rounding if mode == "nearest" else None)):
            raise UnsupportedModelError(
                f"resizes {n} entries to {m} with mode={mode!r}, coordinate_transformation_mode={coordinates!r}, "
                f"nearest_mode={rounding!r}, which PyTorch does not do; export with whole factors, 'asymmetric' and "
                "'floor' for nearest, 'half_pixel' or 'align_corners' for linear"
            )
    return step


def _modes(attributes: dict[str, Any], opset: int, by_size: bool) -> tuple[str, str, str]:
    """Mode, coordinates and rounding, with the defaults of the opset."""
    mode = attributes.get("mode", "nearest")
    coordinates = attributes.get("coordinate_transformation_mode", "half_pixel" if opset >= 11 else "asymmetric")
    rounding = attributes.get("nearest_mode", "round_prefer_floor" if opset >= 11 else "floor")
    if mode not in ("nearest", "linear"):
        raise UnsupportedModelError(f"resizes with mode={mode!r}; supported modes are nearest and linear")
    if coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        raise UnsupportedModelError(
            f"resizes with coordinate_transformation_mode={coordinates!r}; supported are half_pixel, "
            "pytorch_half_pixel, align_corners and asymmetric"
        )
    policy = attributes.get("keep_aspect_ratio_policy", "stretch")
    if attributes.get("antialias", 0) or (by_size and policy != "stretch"):
        raise UnsupportedModelError(
            f"resizes with antialias or keep_aspect_ratio_policy={policy!r}, which are not supported"
        )
    return mode, coordinates, rounding


def _positions(n: int, m: int, factor: float, coordinates: str, rounding: str | None) -> Array:
    """Where each of m outputs reads among n inputs; rounded to an entry for nearest."""
    i = np.arange(m, dtype=np.float64)
    if coordinates == "align_corners":
        x = i * (n - 1) / max(m - 1, 1)
    elif coordinates == "asymmetric":
        x = i / factor
    elif coordinates == "pytorch_half_pixel" and m == 1:
        x = np.zeros(1)
    else:
        x = (i + 0.5) / factor - 0.5
    if rounding is not None:
        # Factors are stored in single precision, so a position on the border of two entries may be off by that much.
        x = np.round(x, 6)
        rounded = {"floor": np.floor(x), "ceil": np.ceil(x), "round_prefer_floor": np.ceil(x - 0.5)}
        x = rounded.get(rounding, np.floor(x + 0.5))
    return np.clip(x, 0, n - 1)
