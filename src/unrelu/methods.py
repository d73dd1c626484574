"""The registry of inversion methods, by name and as objects with their options.

A method is a callable ``method(problem) -> Inversion`` that holds its options, such as
``LevenbergMarquardt(start="linf")``. The layer methods (``LInf(alpha=1.5)``) are applied from the last layer to the
first. To add a method, write it in a file of ``search`` or ``baselines`` and add a line to :data:`METHODS`. The command
line, the contract tests and the reference page read the registry.

>>> import unrelu
>>> from unrelu.methods import LevenbergMarquardt
>>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
>>> unrelu.invert(net, [1.0, 0.0, 0.5], LevenbergMarquardt(max_iterations=20), z0=[1.0]).z
array([0.5])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from inspect import signature
from numbers import Integral, Real
from typing import Any, TypedDict, get_args, get_type_hints

from unrelu.baselines.adam import Adam
from unrelu.baselines.gradient_descent import GradientDescent
from unrelu.errors import OptionError
from unrelu.layerwise import L1, Exact, LayerMethod, LeastSquares, LInf, Relaxed
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardt
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.runtime.words import nearest, shown
from unrelu.search.auto import Search

__all__ = [
    "L1",
    "METHODS",
    "Adam",
    "Exact",
    "GradientDescent",
    "LInf",
    "LeastSquares",
    "LevenbergMarquardt",
    "Relaxed",
    "Search",
]

Method = Callable[[Problem], Inversion]


class Options(TypedDict, total=False):
    """The options of all methods by name, for editors and type checkers; each method takes some of them."""

    rounds: int | None
    restarts: int | None
    learn: bool
    confidence: float
    pool: bool
    radius: float
    max_programs: int
    max_iterations: int | None
    start: str
    damping: float
    alpha: float
    tolerance: float | None
    setting: str
    learning_rate: float | None
    gradient_tolerance: float | None
    epsilon: float | None


def refuse(method: Method, problem: Problem) -> None:
    """Call the ``check`` of the method, if it has one, which raises an error if the method does not suit the problem.

    Raises:
        UnsupportedModelError: the method does not support this generator, measurement or noise; the message says which
            method does.
        InputError: the problem has a prior, and the method has no |z|^2 term.
    """
    getattr(method, "check", lambda _: None)(problem)


@dataclass(frozen=True)
class Entry:
    """One line of the registry.

    Attributes:
        summary: a description of the method.
        norm: the norm that ``fun`` reports; "noise" for the norm that suits the noise.
        options: a frozen dataclass whose fields are the method's options.
        layerwise: whether ``options`` is a layer method, to be wrapped in :class:`Layerwise`.
    """

    summary: str
    norm: str
    options: type[Any]
    layerwise: bool = False

    def defaults(self) -> dict[str, Any]:
        """Return the names of the options and their default values."""
        return {f.name: f.default for f in fields(self.options) if f.default is not MISSING}


METHODS: dict[str, Entry] = {
    "auto": Entry(
        "joint search: smoothed descents from independent starts, and perturbations, until sure or out of budget",
        "noise",
        Search,
    ),
    "exact": Entry("layer-wise linear solves on active rows (Theorem 2), for data without noise", "l2", Exact, True),
    "linf": Entry("Algorithm 1: layer-wise linear programs on the largest error", "linf", LInf, True),
    "l1": Entry("Algorithm 2: layer-wise linear programs on the sum of errors", "l1", L1, True),
    "relaxed": Entry("relaxation (8): layer-wise linear programs without a sign decision", "l1", Relaxed, True),
    "least_squares": Entry("the least-squares analogue of Algorithm 2, layer by layer", "l2", LeastSquares, True),
    "lm": Entry("Levenberg-Marquardt on the joint network from one start", "l2", LevenbergMarquardt),
    "gradient_descent": Entry("the paper's gradient-descent baseline", "l2", GradientDescent),
    "adam": Entry("CSGM: Adam on the code from several random starts", "l2", Adam),
}


def registered_name(method: str | LayerMethod | Method) -> str | None:
    """Find the registered name of a method, given by name or as an object; None for a callable of the user's own."""
    if isinstance(method, str):
        return method
    return next((name for name, entry in METHODS.items() if type(method) is entry.options), None)


def make(method: str | LayerMethod | Method, options: Mapping[str, Any]) -> Method:
    """Make the method of this name with its options, or take the given object; apply layer methods to all layers.

    Raises:
        OptionError: the name or an option is unknown, or the value of an option is not allowed.
    """
    name = registered_name(method)
    made: Any = method
    if callable(method):
        if options:
            raise OptionError(
                f"options {', '.join(options)} were given with a callable method; set them on the callable"
            )
    elif isinstance(method, str) and method in METHODS:
        made = _with_options(method, options)
    else:
        array = hasattr(method, "__array__")
        meant = "; pass a measurement by its name, operator=" if array else nearest(method, METHODS)
        raise OptionError(f"method {shown(method)} is unknown; use one of {', '.join(METHODS)}, or a callable{meant}")
    return Layerwise(made, name) if name is not None and METHODS[name].layerwise else made


_ARGUMENTS = (*signature(Problem.build).parameters, "device", "progress")  # of unrelu.invert
_KINDS: dict[type, tuple[str, type]] = {
    str: ("a string", str),
    int: ("a whole number", Integral),
    float: ("a number", Real),
    bool: ("a truth value, True or False", bool),
}


def _with_options(method: str, options: Mapping[str, Any]) -> Any:
    """Make the object of a registered method, and check its options against the annotations of its fields.

    NumPy's numbers are numbers; True and False are not.
    """
    entry = METHODS[method]
    known, hints = entry.defaults(), get_type_hints(entry.options) if options else {}
    for name, value in options.items():
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise OptionError(f"method {method!r} has no option {name!r}; {takes}{_meant(name, known)}")
        kinds = get_args(hints[name]) or (hints[name],)
        if value is None and type(None) in kinds:
            continue
        wanted, accepted = zip(*(_KINDS[kind] for kind in kinds if kind is not type(None)), strict=True)
        if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
            raise OptionError(f"option {name}={value!r} of method {method!r} must be {' or '.join(wanted)}")
        if isinstance(value, int) and abs(value) >= 2**63:
            digits = len(str(abs(value)))
            raise OptionError(f"option {name} of method {method!r} has {digits} digits; pass less than 2^63")
    return entry.options(**options)


def _meant(name: str, known: Mapping[str, Any]) -> str:
    """End an error message with the option that may have been meant by an unknown name."""
    if name in _ARGUMENTS:  # as of unrelu.run, which has fewer
        return f"; {name}= goes with unrelu.invert, not with this call"
    other = next((other for other, entry in METHODS.items() if name in entry.defaults()), None)
    return nearest(name, [*known, *_ARGUMENTS]) if other is None else f"; it is one of method={other!r}"
