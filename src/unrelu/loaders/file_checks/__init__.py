"""Check model files before PyTorch and ONNX read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unrelu.errors import InputError, ModelError, ModelFileError


@contextmanager
def readable(kind: str, way_out: str = "export it again") -> Iterator[None]:
    """Report whatever a parser raises as a damaged file of this kind.

    Raises:
        ModelFileError: in place of any error that is not one of unrelu's own.
    """
    try:
        yield
    except (InputError, ModelError, MemoryError):
        raise
    except Exception as error:  # raised by pickle, zipfile, zlib, protobuf, ... for unexpected bytes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelFileError(f"not a {kind}, or a truncated one ({reason}); {way_out}") from error
