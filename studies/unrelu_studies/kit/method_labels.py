"""What the labels of tables and pictures run, and the noise levels of the paper."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from unrelu._invert import invert
from unrelu.models.network import Network
from unrelu.result import Inversion

NOISES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

# What a label of tables and pictures runs: the method's name and its options. The paper gives gradient descent two
# settings: step 1 and 1,000 iterations on random weights, 1e-3 and 10,000 on trained ones.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("exact", {}),
    "linf": ("linf", {}),
    "l1": ("l1", {}),
    "relaxed": ("relaxed", {}),
    "least_squares": ("least_squares", {}),
    "GD": ("gradient_descent", {"setting": "synthetic"}),
    "GD, trained": ("gradient_descent", {"setting": "trained"}),
    "GD, 10,000 steps": ("gradient_descent", {"learning_rate": 1.0, "max_iterations": 10_000}),
    "adam": ("adam", {}),
    "lm": ("lm", {}),
    "auto": ("auto", {}),
}


def options_of(label: str, quick: bool) -> tuple[str, dict[str, Any]]:
    """Method and options of a label of :data:`METHODS`; a quick run makes at most 2,000 steps of gradient descent."""
    method, options = METHODS[label]
    cut = quick and method == "gradient_descent" and options.get("setting") != "synthetic"
    return method, {**options, "max_iterations": 2_000} if cut else options


def run(label: str, network: Network, y: npt.ArrayLike, **given: Any) -> Inversion:
    """Invert by the method of a label of :data:`METHODS`; nothing is said of the noise unless it is given."""
    method, options = METHODS[label]
    return invert(network, y, method, **options, **given)
