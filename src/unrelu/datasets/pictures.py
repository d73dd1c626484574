"""PNG and JPEG files: a folder of them as a data set, one as an observation, a reconstruction as one."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.datasets.sources import Part, StoredSource, optional
from unrelu.errors import InputError
from unrelu.runtime.file_reading import MAX_BYTES, read_bytes, shown_size

ENDINGS = (".png", ".jpg", ".jpeg")
# Pillow's modes that hold what the file says, and the types of their values. Others have a palette or transparency, and
# what they should look like is a choice that the user has to make. Older Pillows read 16-bit files as "I".
_MODES = {"1": "bool", "L": "uint8", "RGB": "uint8", "I;16": "uint16", "I": "uint16"}


class Folder(StoredSource):
    """The PNG and JPEG files of a folder, sorted by name; other files and folders in it are left alone.

    An observation is (H, W) of a grey file and (3, H, W) of a colour file. Values are those of the file, 0..255 or
    0..65535; what it says on gamma or orientation is not applied. ``size`` is (height, width) to resize to, antialiased
    bilinear, or by the ``nearest`` pixel for masks; without it, all files must have the first one's size. One file, and
    one image as float64, may take ``max_bytes``; Pillow's own limit holds as well.
    """

    def __init__(
        self, location: str, size: tuple[int, int] | None = None, nearest: bool = False, max_bytes: int = MAX_BYTES
    ) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise InputError(f"size={size} is no size of an image; pass (height, width) in pixels")
        self.location, self._max_bytes = location, max_bytes
        self.resized, self._nearest = size, nearest
        self._names: list[str] | None = self._list()
        self.size = len(self._names)
        if not self._names:
            raise InputError(f"{location} holds no files that end in {', '.join(ENDINGS)}; pass a folder of images")
        self.shape, self.dtype = self._first()

    def name(self, i: int) -> str:
        """The name of file i."""
        return self._listed()[i]

    def parts(self, start: int, stop: int) -> Iterator[Part]:
        """Images start to stop - 1, and what is wrong with the others."""
        for i, name in enumerate(self._listed()[start:stop], start):
            image = self._decoded(name)
            if isinstance(image, str):
                # An image is to blame only if its folder is still there.
                if not Path(self.location).is_dir():
                    raise InputError(f"{self.location} is gone; bring it back before going on")
                yield i, image
            elif (image.shape, image.dtype) != (self.shape, self.dtype):
                way_out = "" if self.resized else ": make them equal, or pass size=(height, width) to resize"
                first = _kind(self.shape, self.dtype)
                yield i, f"is {_kind(image.shape, image.dtype)}; the first is {first}{way_out}"
            else:
                yield i, image[None]

    def digest(self, start: int, stop: int) -> str:
        """SHA-256 of the files: for each its length, 8 bytes with the lowest first, and its bytes."""
        self.check_range(start, stop)
        digest = hashlib.sha256()
        for name in self._listed()[start:stop]:
            try:
                content = read_bytes(Path(self.location, name), self._max_bytes, Path(self.location))
            except InputError:
                content = b"unreadable"
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()

    def _listed(self) -> list[str]:
        if self._names is None:
            self._names = self._list()
            if len(self._names) != self.size:
                raise InputError(
                    f"{self.location} now holds {len(self._names)} images, it held {self.size}; do not change a data "
                    "set while it is read"
                )
        return self._names

    def _list(self) -> list[str]:
        try:
            with os.scandir(self.location) as entries:
                return sorted(e.name for e in entries if e.name.lower().endswith(ENDINGS) and e.is_file())
        except OSError as error:
            raise InputError(f"{self.location} cannot be read as a folder of images: {error.strerror}") from error

    def _first(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of the first file that can be read."""
        problem = ""
        for name in self._listed():
            image = self._decoded(name)
            if not isinstance(image, str):
                return image.shape, image.dtype
            problem = problem or f"{name} {image}"
        raise InputError(f"{self.location} holds no image that can be read: {problem}")

    def _decoded(self, name: str) -> npt.NDArray[Any] | str:
        folder = Path(self.location)
        return decoded(folder / name, self.resized, self._nearest, self._max_bytes, folder)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_names": None}


def decoded(
    path: Path,
    size: tuple[int, int] | None = None,
    nearest: bool = False,
    max_bytes: int = MAX_BYTES,
    folder: Path | None = None,
) -> npt.NDArray[Any] | str:
    """The image in a file, which may have to lie in a folder; or what is wrong with it.

    Nothing but PNG and JPEG is decoded, whatever the file is called.
    """
    image_module = optional("PIL.Image", "images", "pillow")
    try:
        # Pillow reads from memory: for a file, it would make room for as many bytes as a chunk states.
        content = io.BytesIO(read_bytes(path, max_bytes, folder))
        with warnings.catch_warnings():
            # What Pillow takes for a decompression bomb is one to us.
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(content, formats=("PNG", "JPEG")) as image:
                needed = 8 * image.width * image.height * len(image.getbands())
                if needed > max_bytes:
                    return f"takes {shown_size(needed)}; at most {shown_size(max_bytes)} are read (--max-bytes)"
                return _pixels(image, size, nearest)
    except InputError as error:
        return str(error)
    except MemoryError:
        raise
    except Exception as error:  # of Pillow: OSError, SyntaxError, ValueError, struct.error, ...
        return f"cannot be read: {error}"


def _pixels(image: Any, size: tuple[int, int] | None, nearest: bool) -> npt.NDArray[Any]:
    if image.mode not in _MODES:
        raise InputError(f"has Pillow's mode {image.mode}; save it as grey or RGB, without palette or transparency")
    if size is not None and (image.height, image.width) != size:
        resampling = optional("PIL.Image", "images", "pillow").Resampling
        image = image.resize(size[::-1], resampling.NEAREST if nearest else resampling.BILINEAR)
    array = np.asarray(image).astype(_MODES[image.mode])
    return array.transpose(2, 0, 1) if array.ndim == 3 else array


def kind_of(shape: tuple[int, ...]) -> str:
    """What a picture of that shape is: "28x28 grey", "64x64 RGB"."""
    return f"{shape[-2]}x{shape[-1]} {'RGB' if len(shape) == 3 else 'grey'}"


def _kind(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{kind_of(shape)} {dtype}"
