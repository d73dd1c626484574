"""Report what parsers raise for unexpected bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unrelu.errors import InputError, ModelError, ModelFileError


@contextmanager
def readable(kind: str, way_out: str = "export it again") -> Iterator[None]:
    """Report whatever a parser raises as a damaged file of this kind, a ModelFileError; unrelu's own errors stay."""
    try:
        yield
    except (InputError, ModelError, MemoryError):
        raise
    except Exception as error:  # raised by zipfile, zlib, protobuf, ... for unexpected bytes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelFileError(f"not a {kind}, or a truncated one ({reason}); {way_out}") from error
