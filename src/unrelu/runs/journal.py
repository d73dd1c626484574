"""``chunks.jsonl``: a line for every finished chunk, written when its rows are in the store."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from unrelu.runtime.file_reading import read_json_lines
from unrelu.runtime.file_writing import AGAIN, sole_writer, storing

JOURNAL = "chunks.jsonl"
# Bytes of a line: a message for every observation of the largest chunk, and far more than that.
_LINE = 2**26


@dataclass(frozen=True)
class Record:
    """A finished chunk.

    Attributes:
        chunk: its index.
        start, stop: its observations, start to stop - 1.
        counts: how many observations ended with which status.
        success: how many of them did with success.
        failed: how many of them have no code.
        seconds: that computing it took.
        worker: machine and process.
        at: when it was finished, in seconds since 1970.
        errors: message of every observation with status ERROR, by its index in the data set.
        messages: of those of the others that say more than :func:`unrelu.result.message_of` of their columns.
        names: names of their files, where observations are files.
    """

    chunk: int
    start: int
    stop: int
    counts: dict[str, int]
    success: int
    failed: int
    seconds: float
    worker: str
    at: float
    errors: dict[int, str] = field(default_factory=dict)
    messages: dict[int, str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)


def read_records(folder: Path) -> dict[int, Record]:
    """The finished chunks by index. Lines that are damaged are left out, so that their chunks are computed again."""
    path = folder / JOURNAL
    found = [_record(entry) for entry in read_json_lines(path, _LINE, folder)] if path.exists() else []
    return {record.chunk: record for record in found if record is not None}


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
    left = json.dumps(asdict(record)).encode() + b"\n"
    with storing(stream.name, AGAIN):
        while left:
            left = left[stream.write(left) :]


def busy_seconds(records: Iterable[Record]) -> float:
    """The seconds in which at least one worker computed a chunk: stops of a run do not count."""
    busy, until = 0.0, -math.inf
    for begin, end in sorted((record.at - record.seconds, record.at) for record in records):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy


def _record(line: Any) -> Record | None:
    """The record of a line of types that a run writes; None for any other line."""
    try:
        for name in ("errors", "messages", "names"):
            line[name] = {int(i): str(text) for i, text in line[name].items()}
        record = Record(**line)
        numbers = (record.chunk, record.start, record.stop, record.success, record.failed, *record.counts.values())
        sound = all(type(n) is int and 0 <= n < 2**48 for n in numbers) and isinstance(record.worker, str)
        sound &= math.isfinite(record.seconds + record.at)
        sound &= sum(record.counts.values()) == record.stop - record.start > 0
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return record if sound else None
