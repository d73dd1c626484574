"""``chunks.jsonl``: one line for every finished chunk, written after its rows are in the store."""

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
# The most bytes of a line: far more than a message for every observation of the largest chunk.
_LINE = 2**26


@dataclass(frozen=True)
class Record:
    """The record of a finished chunk.

    Attributes:
        chunk: the index of the chunk.
        start, stop: its observations are start to stop - 1.
        counts: the number of observations with each status.
        success: the number of observations that ended with success.
        failed: the number of observations without a code.
        seconds: the time to compute the chunk.
        worker: machine and process that computed it.
        at: when it was finished, in seconds since 1970.
        errors: the message of every observation with status ERROR, by its index in the data set.
        messages: other messages, where :func:`unrelu.result.message_of` cannot restore them from the columns.
        names: the file names of the observations, if they are files.
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
    """Read the finished chunks by index. Damaged lines are left out, so their chunks are computed again."""
    path = folder / JOURNAL
    found = [_record(entry) for entry in read_json_lines(path, _LINE, folder)] if path.exists() else []
    return {record.chunk: record for record in found if record is not None}


@contextmanager
def recording(folder: Path) -> Iterator[BinaryIO]:
    """Open the journal for :func:`append`, and lock it against other runs."""
    path = folder / JOURNAL
    with storing(path, "name another folder"):
        stream = path.open("ab", buffering=0)  # a buffer would be written again when the file is closed
    with stream, sole_writer(stream.fileno(), path):
        content = path.read_bytes()
        if not content.endswith(b"\n"):  # a line was being written when its process died
            os.truncate(path, content.rfind(b"\n") + 1)
        yield stream


def append(stream: BinaryIO, record: Record) -> None:
    """Write a line. If a disk is full or gone, the next start removes the incomplete line."""
    left = json.dumps(asdict(record)).encode() + b"\n"
    with storing(stream.name, AGAIN):
        while left:
            left = left[stream.write(left) :]


def busy_seconds(records: Iterable[Record]) -> float:
    """Return the seconds in which at least one worker computed a chunk. Pauses of a run do not count."""
    busy, until = 0.0, -math.inf
    for begin, end in sorted((record.at - record.seconds, record.at) for record in records):
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy


def _record(line: Any) -> Record | None:
    """Return the record in a line, or None if a value has a type or size that no run writes."""
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
