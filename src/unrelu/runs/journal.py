"""``chunks.jsonl``: a line for every finished chunk, written when its rows are in the table; and ``data.json``.

``data.json`` has a hash of the observations of every chunk, taken before the first is computed. So a change of the data
between a stop and the next start is noticed, even in chunks that were not computed yet.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from unrelu.datasets.tables import AGAIN
from unrelu.runtime.archives import sealed, unsealed
from unrelu.runtime.file_reading import read_json, read_json_lines
from unrelu.runtime.file_writing import sole_writer, storing, write_whole

JOURNAL, DIGESTS = "chunks.jsonl", "data.json"
# Bytes of a line: a message for every observation of the largest chunk, and far more than that.
_LINE = 2**26


@dataclass(frozen=True)
class Record:
    """A finished chunk.

    Attributes:
        chunk: its index.
        start, stop: its observations, start to stop - 1.
        data: SHA-256 of its observations, and of their masks, as stored.
        result: SHA-256 of its rows but for the seconds.
        timing: SHA-256 of the seconds.
        counts: how many observations ended with which status.
        success: how many of them did with success.
        failed: how many of them have no code.
        errors: message of every observation with status ERROR, by its index in the data set.
        messages: of those of the others that say more than :func:`unrelu.result.message_of` of their columns.
        seconds: that computing it took, and writing it.
        worker: machine and process.
        at: when it was finished, in seconds since 1970.
    """

    chunk: int
    start: int
    stop: int
    data: str
    result: str
    timing: str
    counts: dict[str, int]
    success: int
    failed: int
    seconds: float
    worker: str
    at: float
    errors: dict[int, str] = field(default_factory=dict)
    messages: dict[int, str] = field(default_factory=dict)


def read_records(folder: Path) -> dict[int, Record]:
    """The finished chunks by index. Lines that are damaged are left out, so that their chunks are computed again."""
    path = folder / JOURNAL
    found = [_record(entry) for entry in read_json_lines(path, _LINE, folder)] if path.exists() else []
    return {record.chunk: record for record in found if record is not None}


def read_digests(folder: Path) -> dict[int, str]:
    """SHA-256 of the observations of each chunk, and of their masks, when the run began; {} where that is not known."""
    path = folder / DIGESTS
    with suppress(ValueError, KeyError, TypeError, AttributeError):  # an InputError of the reader is a ValueError
        return {int(chunk): str(data) for chunk, data in unsealed(read_json(path, within=folder))["sha256"].items()}
    return {}


def write_digests(folder: Path, digests: dict[int, str]) -> None:
    """Write what :func:`read_digests` reads, as a whole or not at all (see :func:`write_whole`)."""
    write_whole(folder / DIGESTS, [sealed({"sha256": dict(sorted(digests.items()))})], AGAIN)


@contextmanager
def recording(folder: Path) -> Iterator[BinaryIO]:
    """The journal, for :func:`append`, which no other run can have meanwhile."""
    path = folder / JOURNAL
    with storing(path, "name another folder"):
        stream = path.open("ab", buffering=0)  # a buffer would be written once more when the file is closed
    with stream, sole_writer(stream.fileno(), path):
        content = path.read_bytes()
        if not content.endswith(b"\n"):  # a line was being written when its process died
            os.truncate(path, content.rfind(b"\n") + 1)
        yield stream


def append(stream: BinaryIO, record: Record) -> None:
    """Write a line. What was written of it when a disk is full, or gone, is taken back at the next start."""
    left = sealed(asdict(record)).encode() + b"\n"
    with storing(stream.name, AGAIN):
        while left:
            left = left[stream.write(left) :]


def _record(line: Any) -> Record | None:
    try:
        values = unsealed(line)
        for name in ("errors", "messages"):
            values[name] = {int(i): str(message) for i, message in values[name].items()}
        record = Record(**values)
        return record if _is_sound(record) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _is_sound(record: Record) -> bool:
    """Whether the types are those that a run writes; anyone can compute the check of a line."""
    numbers = (record.chunk, record.start, record.stop, record.success, record.failed, *record.counts.values())
    texts = (record.data, record.result, record.timing, record.worker, *record.counts)
    return (
        all(type(n) is int and 0 <= n < 2**48 for n in numbers)
        and all(isinstance(text, str) for text in texts)
        and all(type(n) in (int, float) and math.isfinite(n) for n in (record.seconds, record.at))
        and record.start < record.stop
        and all(0 <= i < 2**48 for i in record.errors | record.messages)
        and sum(record.counts.values()) == record.stop - record.start
    )
