"""Measurements of images, composed from PyLops operators (``pip install 'unrelu[pylops]'``)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.errors import InputError, MissingPackageError
from unrelu.models.affine import Shape


def blur(shape: Shape, sigma: float, radius: int | None = None) -> Any:
    r"""Convolution with a Gaussian; the image is 0 outside.

    .. math:: A x = h * x, \qquad h_d \propto e^{-|d|^2 / 2 \sigma^2}

    Args:
        shape: the shape of the output, (..., height, width); every image of the leading axes is blurred.
        sigma: standard deviation in pixels, above 0.
        radius: the Gaussian is truncated there; by default at 3 sigma, rounded up.

    Returns:
        A PyLops operator (n, n) for ``operator=``.

    Raises:
        InputError: the shape has no height and width, or sigma or radius is not above 0.
        MissingPackageError: PyLops is not installed.
    """
    lead, height, width = _image(shape)
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma={sigma} must be above 0 pixels")
    reach = math.ceil(3 * sigma) if radius is None else radius
    if reach < 1:
        raise InputError(f"radius={radius} must be at least 1 pixel")
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = np.outer(line, line) / line.sum() ** 2
    one = _pylops().signalprocessing.Convolve2D((height, width), kernel, offset=(reach, reach))
    return _for_each(one, lead)


def downsample(shape: Shape, factor: int) -> Any:
    r"""Means of factor x factor blocks of pixels.

    Args:
        shape: the shape of the output, (..., height, width), both multiples of ``factor``.
        factor: pixels per block and axis, at least 2.

    Returns:
        A PyLops operator (n / factor^2, n) for ``operator=``.

    Raises:
        InputError: the shape has no height and width, or the factor does not divide them.
        MissingPackageError: PyLops is not installed.
    """
    lead, height, width = _image(shape)
    if factor < 2 or height % factor or width % factor:
        raise InputError(f"factor={factor} must be at least 2 and divide the image's {height} x {width} pixels")
    pylops = _pylops()

    def means(size: int) -> Any:
        return pylops.MatrixMult(np.kron(np.eye(size // factor), np.full((1, factor), 1 / factor)))

    return _for_each(pylops.Kronecker(means(height), means(width)), lead)


def partial_fourier(shape: Shape, kept: npt.ArrayLike) -> Any:
    r"""Some coefficients of the unitary 2-D Fourier transform, real parts before imaginary ones.

    Args:
        shape: the shape of the output, (..., height, width).
        kept: which coefficients are measured, bool, (height, width), in the order of ``numpy.fft.fft2``.

    Returns:
        A PyLops operator (2 kept.sum(), n), for each image of the leading axes, for ``operator=``.

    Raises:
        InputError: the shape has no height and width, or ``kept`` has another shape or no True.
        MissingPackageError: PyLops is not installed.
    """
    lead, height, width = _image(shape)
    chosen = np.asarray(kept, dtype=bool)
    if chosen.shape != (height, width) or not chosen.any():
        raise InputError(
            f"kept= has shape {chosen.shape} and {int(chosen.sum())} ones; pass {(height, width)} with some"
        )
    pylops = _pylops()
    transform = pylops.signalprocessing.FFT2D((height, width), norm="ortho", dtype=np.complex128)
    some = pylops.Restriction(height * width, np.flatnonzero(chosen), dtype=np.complex128) * transform
    count = some.shape[0]

    def parts(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        coefficients = some.matvec(x.astype(np.complex128))
        return np.concatenate([coefficients.real, coefficients.imag])

    def back(r: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(some.rmatvec(r[:count] + 1j * r[count:]).real)

    return _for_each(pylops.FunctionOperator(parts, back, 2 * count, height * width), lead)


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) < 2:
        raise InputError(
            f"shape={shape} has no height and width; pass those of the image that a flat output is, e.g. (28, 28)"
        )
    *lead, height, width = shape
    return math.prod(lead), height, width


def _for_each(operator: Any, count: int) -> Any:
    # PyLops gives FunctionOperators a string as dtype, from which SciPy 1.18 would infer a wrong dtype for the blocks.
    return operator if count == 1 else _pylops().BlockDiag([operator] * count, dtype=np.float64)


def _pylops() -> Any:
    try:
        import pylops  # noqa: PLC0415 - an extra
    except ImportError:
        raise MissingPackageError(
            'ready-made operators need PyLops: pip install "unrelu[pylops]"', name="pylops"
        ) from None
    return pylops
