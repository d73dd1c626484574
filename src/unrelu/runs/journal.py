"""``chunks.jsonl``: a line for every finished chunk, written when its rows are in the table; and ``data.json``.

That one has a hash of every chunk's observations, from before the first was computed: data that change between a stop
and the next start are noticed, though nothing was computed of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from unrelu.datasets.tables import AGAIN
from unrelu.errors import InputError
from unrelu.runtime.file_reading import opened, read_json
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
    if not path.exists():
        return {}
    with opened(path, folder) as (stream, _):
        lines = iter(lambda: stream.readline(_LINE), b"")
        try:
            found = [_record(line.decode("utf-8", errors="replace")) for line in lines]
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        return {record.chunk: record for record in found if record is not None}


def read_digests(folder: Path) -> dict[int, str]:
    """SHA-256 of the observations of each chunk, and of their masks, when the run began; {} where that is not known."""
    path = folder / DIGESTS
    if not path.is_file():
        return {}
    with suppress(ValueError, KeyError, TypeError, AttributeError):  # an InputError of the reader is a ValueError
        entry: dict[str, Any] = read_json(path, within=folder)
        if entry.pop("check") == _check(entry):
            return {int(chunk): str(digest) for chunk, digest in entry["sha256"].items()}
    return {}


def write_digests(folder: Path, digests: dict[int, str]) -> None:
    """Write what :func:`read_digests` reads, as a whole or not at all (see :func:`write_whole`)."""
    entry = {"sha256": {str(chunk): digest for chunk, digest in sorted(digests.items())}}
    write_whole(folder / DIGESTS, [json.dumps({**entry, "check": _check(entry)})], AGAIN)


@contextmanager
def recording(folder: Path) -> Iterator[BinaryIO]:
    """The journal, for :func:`append`; no other run can have it.

    Raises:
        InputError: another run has it, or it is a named pipe.
        StorageError: it cannot be written.
    """
    path = folder / JOURNAL
    with storing(path, "name another folder"):
        if path.is_fifo():  # which would be waited for
            raise InputError(f"{path} is a named pipe (FIFO); remove it, or name another folder")
        stream = path.open("ab", buffering=0)  # a buffer would be written once more when the file is closed
    with stream, sole_writer(stream.fileno(), path):
        _end_torn_line(path)
        yield stream


def append(stream: BinaryIO, record: Record) -> None:
    """Write a line.

    Raises:
        StorageError: the disk is full, or gone. What was written of the line is taken back at the next start.
    """
    entry = json.loads(json.dumps(asdict(record), allow_nan=False))  # with the keys that it will be read with
    left = json.dumps({**entry, "check": _check(entry)}, allow_nan=False).encode() + b"\n"
    with storing(stream.name, AGAIN):
        while left:
            left = left[stream.write(left) :]


def _end_torn_line(path: Path) -> None:
    """Take back a line that was being written when its process died."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _check(entry: dict[str, Any]) -> str:
    """Tells a line that was changed: a hash in it may otherwise blame the data."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


def _record(line: str) -> Record | None:
    try:
        entry: dict[str, Any] = json.loads(line)
        values = {f.name: entry[f.name] for f in fields(Record)}
        if entry["check"] != _check(values):
            return None
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
