"""Reading and writing of pictures for ``unrelu invert MODEL photo.png -o out.png``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.cli._picture_files import check_output, is_picture, read_picture, stored_shape, write_picture
from unrelu.cli.argument_files import read_observations
from unrelu.datasets.pictures import kind_of
from unrelu.datasets.sources import Shape
from unrelu.errors import InputError
from unrelu.measurements.picture_scale import Scaling, own_range, scale_of
from unrelu.models.generator import Generator
from unrelu.result import Inversion


@dataclass(frozen=True, eq=False)
class Given:
    """The observations of a command.

    Attributes:
        y: the observations as they are stored.
        scale: the value of ``--scale``; for a picture without this option, the scale of the generator.
        names: file names of the observations; None for arrays.
        shape: shape of the picture, (H, W) or (3, H, W); None for arrays.
        description: the picture in words; empty for arrays.
    """

    y: npt.NDArray[Any]
    scale: str | None
    names: tuple[str, ...] | None = None
    shape: Shape | None = None
    description: str = ""


def read_given(
    data: Path, network: Generator, size: tuple[int, int] | None, scale: str | None, measured: bool, max_bytes: int
) -> Given:
    """Read observations from a file of arrays, or one observation from a picture.

    Args:
        data: the file.
        network: G, which determines the size and the scale of pictures.
        size: (height, width) to resize a picture to.
        scale: LOW,HIGH or none.
        measured: whether a matrix maps outputs to y; y is then not a picture.
        max_bytes: the largest size of a file in bytes.
    """
    if not is_picture(data):
        if size is not None:
            raise InputError(f"--size {size[0]},{size[1]} resizes pictures; leave it out, {data} is not a picture")
        return Given(read_observations(data, max_bytes=max_bytes), scale)
    if not data.exists():
        raise InputError(f"{data} does not exist; pass a picture (.png, .jpg) or a .npy or .npz file of observations")
    if measured:
        raise InputError(f"--operator needs measured numbers, and {data} is a picture; pass them as a .npy file")
    y, shape = read_picture(data, network.output_shape, size, max_bytes)
    scale = str(scale_of(network)) if scale is None else scale
    low, high = own_range(y.dtype) or (0, 0)
    mapped = "as stored" if scale == "none" else f"{low:g}..{high:g} mapped to {scale}"
    return Given(y, scale, (data.name,), shape, f"{data.name}: {kind_of(shape)}, {mapped}")


def picture_writer(
    path: Path, given: Given, observations: int, network: Generator, overwrite: bool
) -> Callable[[Inversion], str]:
    """A function that writes the reconstruction as a picture and returns a message.

    Whether the picture can be written is checked here, before anything is computed.

    Raises:
        InputError: there are several observations, the generator makes no pictures, or black and white are unknown.
        OutputExistsError: the file exists and is not to be replaced.
    """
    if observations != 1:
        raise InputError(f"-o {path} is one picture, for {observations} observations; name a folder, e.g. -o out")
    shape = given.shape or stored_shape(network.output_shape)
    if shape is None:
        raise InputError(
            f"-o {path} is a picture, and the generator puts out {network.output_shape}, which is none (H, W), "
            "(3, H, W) or square; name a folder, e.g. -o out"
        )
    check_output(path, overwrite)
    stored = own_range(given.y.dtype) if given.shape else None
    black_and_white = Scaling.parse(given.scale).ends or stored or scale_of(network).ends or (0.0, 1.0)

    def write(result: Inversion) -> str:
        if not np.isfinite(result.z).all():
            return f"{path} is not written, as no code was found"
        write_picture(path, result.reconstruction.reshape(shape), black_and_white)
        return f"written to {path}"

    return write
