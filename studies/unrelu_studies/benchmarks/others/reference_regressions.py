"""Nonlinear regressions of the NIST Statistical Reference Datasets, with certified parameters.

The box of parameters contains both of NIST's starts with a margin: where the starts of a parameter are positive, from a
tenth of the smaller one to ten times the larger one, and mirrored where they are negative. No start is used. The result
is the number of digits that agree with the certified parameters, the least of all parameters, at most 11, as many as
are certified. Where terms of a model can be exchanged, they are, as it fits the certified ones best.

Source: www.itl.nist.gov/div898/strd/nls/nls_info.shtml; the digits are the log relative error of McCullough, "Assessing
the reliability of statistical software: part I", The American Statistician 52 (1998).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, exp

import unrelu
from unrelu.errors import InputError
from unrelu.runtime.array_types import Array
from unrelu_studies.benchmarks.others.data_of_others import data_file
from unrelu_studies.kit.timing import processor_seconds, timed

# The box is so many times wider than NIST's starts.
MARGIN = 10.0
# The default of 0.04 seconds ends most searches before two restarts agree; the message says to raise rounds.
ROUNDS = 10
CERTIFIED_DIGITS = 11
_NUMBER = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")


def _cubic_ratio(b: Sequence[Tensor], x: Tensor) -> Tensor:
    top = b[0] + x * (b[1] + x * (b[2] + x * b[3]))
    return top / (1 + x * (b[4] + x * (b[5] + x * b[6])))


def _peak(b: Sequence[Tensor], x: Tensor) -> Tensor:
    height, centre, width = b
    return height * exp(-(((x - centre) / width) ** 2))


# f(b, x) of every problem: parameters (B, 1) each, and x, (n,).
MODELS: dict[str, Callable[[Sequence[Tensor], Tensor], Tensor]] = {
    "Misra1a": lambda b, x: b[0] * (1 - exp(-b[1] * x)),
    "Chwirut2": lambda b, x: exp(-b[0] * x) / (b[1] + b[2] * x),
    "DanWood": lambda b, x: b[0] * x ** b[1],
    "Lanczos3": lambda b, x: b[0] * exp(-b[1] * x) + b[2] * exp(-b[3] * x) + b[4] * exp(-b[5] * x),
    "Gauss1": lambda b, x: b[0] * exp(-b[1] * x) + _peak(b[2:5], x) + _peak(b[5:8], x),
    "Hahn1": _cubic_ratio,
    "MGH09": lambda b, x: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "Thurber": _cubic_ratio,
    "BoxBOD": lambda b, x: b[0] * (1 - exp(-b[1] * x)),
    "Rat42": lambda b, x: b[0] / (1 + exp(b[1] - b[2] * x)),
    "MGH10": lambda b, x: b[0] * exp(b[1] / (x + b[2])),
    "Bennett5": lambda b, x: b[0] * (b[1] + x) ** (-1 / b[2]),
}
# Terms that can be exchanged, by the numbers of their parameters.
EXCHANGEABLE = {"Lanczos3": ((0, 1), (2, 3), (4, 5)), "Gauss1": ((2, 3, 4), (5, 6, 7))}


class ReferenceRegression(NamedTuple):
    """A problem as its file has it.

    Attributes:
        starts, certified: parameters, (2, k) and (k,).
        y, x: the data, (n,) each.
    """

    starts: Array
    certified: Array
    y: Array
    x: Array

    @property
    def box(self) -> tuple[Array, Array]:
        """The lower and upper ends of the parameters, (k,) each."""
        size, sign = np.abs(self.starts), np.sign(self.starts[0])
        ends = np.sort(sign * np.stack([size.min(axis=0) / MARGIN, size.max(axis=0) * MARGIN]), axis=0)
        return ends[0], ends[1]


def read_regression(data: str | None, name: str) -> ReferenceRegression:
    """A problem from the file of its name.

    Raises:
        OptionError, InputError: the file is missing, or does not hold such a problem.
    """
    path = data_file(data, "nist_strd", f"{name}.dat")
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    found = [_NUMBER.findall(line.split("=", 1)[1]) for line in lines if re.match(r"\s*b\d+\s*=", line)]
    begin = max((i for i, line in enumerate(lines) if line.startswith("Data:")), default=len(lines))
    try:
        parameters = np.array(found, dtype=float)
        y, x = np.array([line.split() for line in lines[begin + 1 :] if line.strip()], dtype=float).T
        first, second, certified, _ = parameters.T
    except ValueError as error:
        raise InputError(f"{path} does not hold two starts, certified values and data as NIST writes them") from error
    return ReferenceRegression(np.stack([first, second]), certified, y, x)


def digits(name: str, z: Array, certified: Array) -> float:
    """The number of digits of parameters that agree with the certified ones."""
    groups = EXCHANGEABLE.get(name, ())
    agreeing = []
    for order in permutations(groups):
        exchanged = z.copy()
        for group, other in zip(groups, order, strict=True):
            exchanged[list(group)] = z[list(other)]
        relative = np.abs(exchanged - certified) / np.abs(certified)
        agreeing.append(float(-np.log10(max(relative.max(), 10.0**-CERTIFIED_DIGITS))))
    return max(agreeing)


def measure_regression(data: str | None, name: str, seed: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """The fit of a problem: digits, also by finite differences, the sum of squares beside the certified, verdict."""
    problem = read_regression(data, name)
    x, names = torch.tensor(problem.x), [f"b{i + 1}" for i in range(len(problem.certified))]

    def model(b: Tensor) -> Tensor:
        return MODELS[name](b[:, :, None].unbind(1), x.to(b))

    bounds = dict(zip(names, zip(*problem.box, strict=True), strict=True))
    network = unrelu.from_torch(model, bounds=bounds)
    found, seconds = timed(lambda: unrelu.invert(network, problem.y, rounds=rounds, seed=seed), processor_seconds)
    certified = float(np.square(network(problem.certified) - problem.y).sum())

    def of_numpy(**b: float) -> Array:
        values = [torch.tensor([[value]], dtype=torch.float64) for value in b.values()]
        return np.asarray(MODELS[name](values, x)[0])

    differences = {}
    for jac in ("2-point", "3-point"):
        simulated = unrelu.from_function(of_numpy, bounds, jac=jac, seconds=0)
        fit = unrelu.invert(simulated, problem.y, rounds=rounds, seed=seed)
        differences[f"digits, {jac}"] = digits(name, fit.z, problem.certified)
    return {
        "part": "regression", "problem": name, "parameters": len(names), "observations": len(problem.y),
        "digits": digits(name, found.z, problem.certified), **differences, "of certified": float(found.fun) / certified,
        "confidence": float(found.confidence), "status": found.status.name, "seconds": seconds,
    }  # fmt: skip
