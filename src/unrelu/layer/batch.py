"""All observations of one layer: threads over the exchange kernel, or one batched interior point on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from unrelu.errors import OptionError
from unrelu.host import computing
from unrelu.layer.batched import least_violation_batch
from unrelu.layer.convex import Answer, least_violation
from unrelu.layer.highs import LpStatus
from unrelu.layer.rows import LayerSystem, Rows
from unrelu.threads import cores, in_threads

__all__ = ["least_violation_many"]


def least_violation_many(
    system: LayerSystem, rows: Sequence[Rows], norm: str, threads: int | None = None, device: str | None = None
) -> list[Answer]:
    """:func:`~unrelu.layer.convex.least_violation` for every element of ``rows``, in order.

    W, its column norms and row norms are prepared once. The kernel runs without the GIL; a thread holds one program
    at a time, about 8 (3 n k + 4 k^2) bytes.

    Args:
        system: the layer.
        rows: of the observations.
        norm: "linf" or "l1".
        threads: how many observations at a time; all cores if None.
        device: a PyTorch device on which to solve the whole batch by an interior point, with the same proof of every
            answer; what it leaves unproved goes to the kernel. On a CPU it is slower than the kernel, so it is
            never chosen by itself.

    Raises:
        OptionError: ``threads`` is not a whole number of at least 1, or there is no such norm or device.
        SolverError: HiGHS refuses a program.
    """
    if threads is not None and (threads < 1 or threads % 1):
        raise OptionError(f"threads={threads} must be a whole number of at least 1")
    answers: list[Answer] = []
    if device is not None:
        answers = least_violation_batch(system, rows, norm, device)
    elif isinstance(system.matrix, np.ndarray):
        _ = system.balanced, system.norms
    todo = [i for i in range(len(rows)) if not answers or answers[i].status is not LpStatus.OPTIMAL]
    with computing(one_thread=True):
        solve = partial(_solve, system, norm)
        found = list(in_threads(solve, [rows[i] for i in todo], threads or cores()))
    if not answers:
        return found
    for i, answer in zip(todo, found, strict=True):
        answers[i] = replace(answer, fallback=True)
    return answers


def _solve(system: LayerSystem, norm: str, rows: Rows) -> Answer:
    return least_violation(system, rows, norm)
