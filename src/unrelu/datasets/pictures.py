"""Reading PNG and JPEG files as an array, in parts."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from unrelu.datasets.data_set import Shape
from unrelu.errors import InputError, OptionError
from unrelu.runtime.file_reading import check_stated_size, read_bytes

# Pillow's modes with the values of the file, and the types of these values. Other modes have a palette or transparency,
# and the user has to choose how they should look. Older versions of Pillow read 16-bit files as "I".
_MODES = {"1": "bool", "L": "uint8", "RGB": "uint8", "I;16": "uint16", "I": "uint16"}


@dataclass(frozen=True, eq=False)
class Pictures:
    """PNG and JPEG files as an array (B, H, W) of grey files, or (B, 3, H, W) of colour files.

    Values are stored values, 0..255 or 0..65535. The gamma and the orientation that a file states are not applied.

    Attributes:
        files: the files in order.
        size: (height, width) to resize to, antialiased bilinear, or by the ``nearest`` pixel for masks. Without it, all
            files must have the size of the first.
        shape, dtype: the shape of the array and its type, as in the first file that can be read.
    """

    files: Sequence[Path]
    size: tuple[int, int] | None
    nearest: bool
    shape: Shape
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, files: Sequence[Path], size: tuple[int, int] | None = None, *, nearest: bool = False) -> Pictures:
        """Open the pictures in files.

        Raises:
            InputError: the size is not a valid one, or no file can be read.
        """
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise InputError(f"size={size} is no size of an image; pass (height, width) in pixels (--size)")
        problem = ""
        for path in files:
            first = decoded(path, size, nearest)
            if not isinstance(first, str):
                return cls(files, size, nearest, (len(files), *first.shape), first.dtype)
            problem = problem or f"{path.name} {first}"
        raise InputError(f"no image can be read: {problem}")

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        return np.stack([self._image(path) for path in self.files[rows]])

    def _image(self, path: Path) -> npt.NDArray[Any]:
        image = decoded(path, self.size, self.nearest)
        if isinstance(image, str):
            raise InputError(image)
        if (image.shape, image.dtype) != (self.shape[1:], self.dtype):
            way_out = "" if self.size else ": make them equal, or pass size=(height, width) to resize (--size)"
            first = f"{kind_of(self.shape[1:])} {self.dtype}"
            raise InputError(f"it is {kind_of(image.shape)} {image.dtype}; the first is {first}{way_out}")
        return image


def decoded(path: Path, size: tuple[int, int] | None = None, nearest: bool = False) -> npt.NDArray[Any] | str:
    """Decode the image in a file, or say what is wrong with it. A link may not lead out of its folder.

    Only PNG and JPEG are decoded, whatever the file is called.
    """
    try:
        # Pillow reads from memory. From a file, it would allocate as many bytes as a chunk states.
        content = io.BytesIO(read_bytes(path, path.parent))
        with warnings.catch_warnings():
            # A decompression bomb is only a warning of Pillow; here it is an error.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content, formats=("PNG", "JPEG")) as image:
                check_stated_size("takes", 8 * image.width * image.height * len(image.getbands()))
                return _pixels(image, size, nearest)
    except InputError as error:
        return str(error)
    except UnidentifiedImageError:
        return "is no PNG or JPEG file"
    except (OptionError, MemoryError):
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        return f"cannot be read: {error}"


def _pixels(image: Any, size: tuple[int, int] | None, nearest: bool) -> npt.NDArray[Any]:
    if image.mode not in _MODES:
        raise InputError(f"has Pillow's mode {image.mode}; save it as grey or RGB, without palette or transparency")
    if size is not None and (image.height, image.width) != size:
        image = image.resize(size[::-1], Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR)
    array = np.asarray(image).astype(_MODES[image.mode])
    return array.transpose(2, 0, 1) if array.ndim == 3 else array


def kind_of(shape: tuple[int, ...]) -> str:
    """Describe a picture of this shape: "28x28 grey", "64x64 RGB"."""
    return f"{shape[-2]}x{shape[-1]} {'RGB' if len(shape) == 3 else 'grey'}"
