"""Linear measurements of images, for ``operator=``."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import LinearOperator

from unrelu.errors import InputError
from unrelu.models.affine import Shape
from unrelu.runtime.array_types import Array


def blur(shape: Shape, sigma: float, radius: int | None = None) -> LinearOperator:
    r"""Convolution with a Gaussian; the image is 0 outside.

    .. math:: A x = h * x, \qquad h_d \propto e^{-|d|^2 / 2 \sigma^2}

    Args:
        shape: the shape of the output, (..., height, width); every image of the leading axes is blurred.
        sigma: standard deviation in pixels, above 0.
        radius: the Gaussian is truncated there; by default at 3 sigma, rounded up.

    Returns:
        A SciPy ``LinearOperator``, (n, n).

    Raises:
        InputError: the shape has no height and width, or sigma or radius is not above 0.
    """
    lead, height, width = _image(shape)
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma={sigma} must be above 0 pixels")
    reach = math.ceil(3 * sigma) if radius is None else radius
    if reach < 1:
        raise InputError(f"radius={radius} must be at least 1 pixel")
    n = lead * height * width

    def blurred(x: Array) -> Array:
        images = x.reshape(lead, height, width)
        return np.asarray(gaussian_filter(images, sigma, mode="constant", radius=reach, axes=(1, 2)).ravel())

    return LinearOperator((n, n), matvec=blurred, rmatvec=blurred, dtype=np.float64)  # symmetric


def downsample(shape: Shape, factor: int) -> sparse.csr_array:
    r"""Means of factor x factor blocks of pixels.

    Args:
        shape: the shape of the output, (..., height, width), both multiples of ``factor``.
        factor: pixels per block and axis, at least 2.

    Returns:
        A SciPy sparse matrix, (n / factor^2, n).

    Raises:
        InputError: the shape has no height and width, or the factor does not divide them.
    """
    lead, height, width = _image(shape)
    if factor < 2 or height % factor or width % factor:
        raise InputError(f"factor={factor} must be at least 2 and divide the image's {height} x {width} pixels")

    def means(size: int) -> Array:
        return np.kron(np.eye(size // factor), np.full((1, factor), 1 / factor))

    image = sparse.kron(sparse.csr_array(means(height)), sparse.csr_array(means(width)))
    return sparse.csr_array(sparse.kron(sparse.eye_array(lead), image))


def partial_fourier(shape: Shape, kept: npt.ArrayLike) -> LinearOperator:
    r"""Some coefficients of the unitary 2-D Fourier transform, real parts before imaginary ones.

    Args:
        shape: the shape of the output, (..., height, width).
        kept: which coefficients are measured, bool, (height, width), in the order of ``numpy.fft.fft2``.

    Returns:
        A SciPy ``LinearOperator``, (2 kept.sum(), n) for each image of the leading axes.

    Raises:
        InputError: the shape has no height and width, or ``kept`` has another shape or no True.
    """
    lead, height, width = _image(shape)
    chosen = np.asarray(kept, dtype=bool)
    if chosen.shape != (height, width) or not chosen.any():
        raise InputError(
            f"kept= has shape {chosen.shape} and {int(chosen.sum())} ones; pass {(height, width)} with some"
        )

    def parts(x: Array) -> Array:
        some = np.fft.fft2(x.reshape(lead, height, width), norm="ortho")[:, chosen]
        return np.concatenate([some.real, some.imag], axis=1).ravel()

    def back(r: Array) -> Array:
        coefficients = np.zeros((lead, height, width), dtype=np.complex128)
        real, imaginary = np.split(r.reshape(lead, -1), 2, axis=1)
        coefficients[:, chosen] = real + 1j * imaginary
        return np.fft.ifft2(coefficients, norm="ortho").real.ravel()

    size = (2 * lead * int(chosen.sum()), lead * height * width)
    return LinearOperator(size, matvec=parts, rmatvec=back, dtype=np.float64)


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) < 2:
        raise InputError(
            f"shape={shape} has no height and width; pass those of the image that a flat output is, e.g. (28, 28)"
        )
    *lead, height, width = shape
    return math.prod(lead), height, width
