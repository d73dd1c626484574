"""One picture as an observation, and one reconstruction as a picture: ``unrelu invert MODEL photo.png -o out.png``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from unrelu.cli.argument_files import read_observations
from unrelu.cli.terminal import is_picture
from unrelu.datasets.pictures import decoded, kind_of
from unrelu.display.pixels import drawn_shape
from unrelu.errors import InputError
from unrelu.measurements.picture_scale import Scaling, own_range, scale_of
from unrelu.models.generator import Generator
from unrelu.runtime.file_writing import drafted

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Given:
    """The observations of a command.

    Attributes:
        y: the observations as they are stored.
        scale: the value of ``--scale``; for a picture without this option, the scale of the generator.
        names: the file names of the observations; None for arrays.
        description: the picture in words; empty for arrays.
        shape: (H, W) or (3, H, W) if there is one observation and it is a picture; otherwise None.
    """

    y: npt.NDArray[Any]
    scale: str | None
    names: tuple[str, ...] | None
    description: str
    shape: Shape | None


def read_given(data: Path, network: Generator, size: tuple[int, int] | None, scale: str | None) -> Given:
    """Read observations from a file of arrays, or one observation and its scale from a picture.

    Args:
        data: the file.
        network: G, which determines the size and the scale of pictures.
        size: (height, width) to resize a picture to.
        scale: "LOW,HIGH" or "none"; for a picture, None stands for the scale of the generator.
    """
    if is_picture(data):
        y, shape = read_picture(data, network.output_shape, size)
        scale = str(scale_of(network)) if scale is None else scale
        low, high = own_range(y.dtype) or (0.0, 1.0)
        mapped = "as stored" if scale == "none" else f"{low:g}..{high:g} mapped to {scale}"
        return Given(y, scale, (data.name,), f"{data.name}: {kind_of(shape)}, {mapped}", shape)
    if size is not None:
        raise InputError(f"--size {size[0]},{size[1]} resizes pictures; leave it out, {data} is not a picture")
    y, output = read_observations(data), network.output_shape
    one = y.ndim == 1 or y.shape == output or len(y) == 1
    return Given(y, scale, None, "", picture_shape(output) if one else None)


def read_picture(path: Path, output: Shape, size: tuple[int, int] | None) -> tuple[npt.NDArray[Any], Shape]:
    """Read the picture in a file, for a generator with outputs of this shape.

    Returns:
        The stored values in the generator's output shape, and their shape as a picture, (H, W) or (3, H, W).

    Raises:
        InputError: the file cannot be read, or the generator makes no pictures, or pictures of another size.
    """
    found, made = decoded(path, size), picture_shape(output)
    if isinstance(found, str):
        raise InputError(found if found.startswith(str(path)) else f"{path} {found}")
    if found.shape == made or (max(output) == math.prod(output) == found.size):
        return found.reshape(output), found.shape
    if made is None:
        raise InputError(f"{path} is a picture, and the generator puts out {output}, which is none; pass a .npy file")
    raise InputError(
        f"{path} is {kind_of(found.shape)}, and the generator makes {kind_of(made)} pictures; make it such a picture, "
        f"or resize it with --size {made[-2]},{made[-1]}"
    )


def picture_shape(output: Shape) -> Shape | None:
    """Return the shape (H, W) or (3, H, W) in which an output is a picture; None if it is not a picture."""
    shape = drawn_shape(output)
    return None if shape is None else shape[1:] if shape[0] == 1 else shape


def check_picture(path: Path, given: Given, network: Generator) -> tuple[float, float]:
    """Return the values of black and white. Refuse an output file if the reconstruction is not one picture."""
    if given.shape is None:
        raise InputError(f"-o {path} is one picture, and DATA is more than one, or none; name a folder, e.g. -o out")
    if path.is_symlink() or not path.parent.is_dir():
        raise InputError(f"{path} is a link, or its folder does not exist; name another file")
    stored = own_range(given.y.dtype) if given.names else None
    return Scaling.parse(given.scale).ends or stored or scale_of(network).ends or (0.0, 1.0)


def write_picture(path: Path, reconstruction: npt.NDArray[Any], shape: Shape | None, ends: tuple[float, float]) -> str:
    """Write a reconstruction as 8-bit grey or RGB, and return a message. Clip values beyond black and white."""
    if not np.isfinite(reconstruction).all():
        return f"{path} is not written, as no code was found"
    low, high = map(float, ends)
    values = np.clip((reconstruction.reshape(shape) - low) / (high - low), 0, 1)
    pixels = np.rint(255 * values).astype(np.uint8)
    pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    kind: dict[str, Any] = {"format": "PNG"} if path.suffix.lower() == ".png" else {"format": "JPEG", "quality": 95}
    with drafted(path, "free space, or name another file") as stream:
        Image.fromarray(pixels).save(stream, **kind)
    return f"written to {path}"
