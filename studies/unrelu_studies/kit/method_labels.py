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
    # The gradient of a mean of squares over 784 pixels, where that of half their sum has the paper's step.
    "GD, mean of squares": ("gradient_descent", {"learning_rate": 1e-3 * 2 / 784, "max_iterations": 10_000}),
    "GD, 10,000 steps": ("gradient_descent", {"learning_rate": 1.0, "max_iterations": 10_000}),
    # The caller gives the step, which follows the network.
    "GD, scaled step": ("gradient_descent", {"max_iterations": 1_000}),
    # PLUGIn's own comparison: 1,000 times the gradient of a mean over 500 outputs, that is 4 J^T r. It makes 10,000
    # steps there; after 2,000 its mean errors change by less than 1%.
    "GD, PLUGIn's step": ("gradient_descent", {"learning_rate": 4.0, "max_iterations": 2_000}),
    "adam": ("adam", {}),
    "lm": ("lm", {}),
    "auto": ("auto", {}),
}

# What is understood by gradient descent then, in figures of pictures.
MEAN_READING = (
    "GD minimises the mean over pixels, so that its steps are 2/784 as long; with such a loss it would not recover "
    "short codes on random networks, as it does in Figure 2"
)


def options_of(label: str, quick: bool) -> tuple[str, dict[str, Any]]:
    """Method and options of a label of :data:`METHODS`; a quick run makes at most 2,000 steps of gradient descent."""
    method, options = METHODS[label]
    cut = quick and method == "gradient_descent" and options.get("setting") != "synthetic"
    return method, {**options, "max_iterations": 2_000} if cut else options


def run(label: str, network: Network, y: npt.ArrayLike, **given: Any) -> Inversion:
    """Invert by the method of a label of :data:`METHODS`; nothing is said of the noise unless it is given."""
    method, options = METHODS[label]
    return invert(network, y, method, **options, **given)
