"""A picture as an observation, and a reconstruction as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.datasets.pictures import ENDINGS, decoded, kind_of
from unrelu.datasets.sources import Shape, optional
from unrelu.errors import InputError, OutputExistsError
from unrelu.runtime.file_reading import MAX_BYTES
from unrelu.runtime.file_writing import drafted

_JPEG_QUALITY = 95


def is_picture(path: str | Path) -> bool:
    """Whether the name ends as those of PNG and JPEG files do."""
    return Path(path).suffix.lower() in ENDINGS


def stored_shape(output: Shape) -> Shape | None:
    """(H, W) or (3, H, W) of the picture files that outputs of this shape are; None if they are none.

    Flat outputs are square pictures, grey if n is a square number, RGB if n / 3 is one.
    """
    shape = tuple(n for n in output if n != 1)
    if len(shape) == 2 or (len(shape) == 3 and shape[0] == 3):
        return shape
    if len(shape) != 1:
        return None
    for channels in ((), (3,)):
        side = math.isqrt(shape[0] // math.prod(channels))
        if math.prod((*channels, side, side)) == shape[0]:
            return (*channels, side, side)
    return None


def read_picture(
    path: Path, output: Shape, size: tuple[int, int] | None = None, max_bytes: int = MAX_BYTES
) -> tuple[npt.NDArray[Any], Shape]:
    """The picture in a file, read as one in a folder (:class:`Folder`), for a generator with outputs of this shape.

    Returns:
        Its values as they are stored, of the generator's output shape; and their shape as a picture, (H, W) or
        (3, H, W).

    Raises:
        InputError: it is missing or cannot be read, or the generator makes other pictures, or none. The message says of
            which size and colours, and how to convert.
    """
    found = decoded(path, size, max_bytes=max_bytes)
    made = stored_shape(output)
    if isinstance(found, str):
        said = found if found.startswith(str(path)) else f"{path} {found}"
        raise InputError(f"{said}: {_conversion(path, made)}" if made and "Pillow's mode" in found else said)
    flat = len([n for n in output if n != 1]) <= 1
    if found.shape == made or (flat and found.size == math.prod(output)):
        return found.reshape(output), found.shape
    if made is None:
        raise InputError(
            f"{path} is a picture, and the generator puts out {output}, which is none (H, W), (3, H, W) or square: "
            "pass the observation as a .npy file"
        )
    ways = []
    if found.ndim != len(made):
        ways.append(f"convert it: {_conversion(path, made)}")
    if found.shape[-2:] != made[-2:]:
        ways.append(f"resize it by --size {made[-2]},{made[-1]}")
    numbers = f" ({made[-2] * made[-1] * (3 if len(made) == 3 else 1)} numbers)" if flat else ""
    raise InputError(
        f"{path} is {kind_of(found.shape)}, and the generator makes {kind_of(made)} pictures{numbers}: "
        f"{' and '.join(ways)}"
    )


def _conversion(path: Path, made: Shape) -> str:
    """The call that makes a picture of the generator's colours."""
    mode, name = ("RGB", "rgb.png") if len(made) == 3 else ("L", "grey.png")
    return f"PIL.Image.open({str(path)!r}).convert({mode!r}).save({name!r})"


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse a place where no picture can be written, or where a file would be replaced without ``overwrite``."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is no file, and would be replaced by a picture; name a file")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; choose another name, or pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no folder, so {path.name} cannot be written there; make it first")


def write_picture(path: Path, values: npt.NDArray[Any], ends: tuple[float, float]) -> None:
    """Write values (H, W) or (3, H, W) as 8-bit grey or RGB.

    ends[0] becomes 0, ends[1] becomes 255, and values beyond them are cut.
    """
    image_module = optional("PIL.Image", "pictures", "pillow")
    if not np.isfinite(values).all():
        raise InputError(f"{path} is not written, as no code was found")
    low, high = ends
    pixels = np.rint(255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    picture = image_module.fromarray(pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels)
    with drafted(path, "free space, or name another file") as stream:
        picture.save(stream, kind, **({} if kind == "PNG" else {"quality": _JPEG_QUALITY}))
