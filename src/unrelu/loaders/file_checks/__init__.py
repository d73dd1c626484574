"""What model files hold, looked through before PyTorch, ONNX and HDF5 read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unrelu.errors import InputError, ModelError, ModelFileError


@contextmanager
def readable(kind: str, way_out: str = "export it again") -> Iterator[None]:
    """Whatever a parser raises at a damaged file of this kind, told as what it is.

    Raises:
        ModelFileError: in place of what is none of unrelu's own errors.
    """
    try:
        yield
    except (InputError, ModelError, MemoryError):
        raise
    except Exception as error:  # of pickle, zipfile, zlib, json, HDF5, protobuf, ... at bytes that they do not expect
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelFileError(f"not a {kind}, or a truncated one ({reason}); {way_out}") from error
