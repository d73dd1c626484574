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
from numbers import Integral, Real
from typing import Any, get_args, get_type_hints

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


def refuse(method: Method, problem: Problem) -> None:
    """Raise an error early, before any work is done, if the method cannot solve this problem.

    A method that does not suit every problem has a ``check(problem)``, which it also calls itself.

    Raises:
        UnsupportedModelError: the method does not support this generator, measurement or noise; the message says which
            method does.
        InputError: the problem has a prior, and the method has no |z|^2 term.
    """
    check = getattr(method, "check", None)
    if check is not None:
        check(problem)


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
        """Option names and default values."""
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
    """The registered name of a method, given by name or as an object; None for a callable of the caller's."""
    if isinstance(method, str):
        return method
    return next((name for name, entry in METHODS.items() if type(method) is entry.options), None)


def make(method: str | LayerMethod | Method, options: Mapping[str, Any]) -> Method:
    """The method of that name with its options, or the given object.

    Raises:
        OptionError: the name or an option is unknown, or the value of an option is not allowed.
    """
    if callable(method):
        if options:
            raise OptionError(
                f"options {', '.join(options)} were given with a callable method; set them on the callable"
            )
        return _callable(method, registered_name(method))
    entry = METHODS.get(method) if isinstance(method, str) else None
    if entry is None:
        array = hasattr(method, "__array__")
        meant = "; pass a measurement by its name, operator=" if array else nearest(method, METHODS)
        raise OptionError(f"method {shown(method)} is unknown; use one of {', '.join(METHODS)}, or a callable{meant}")
    known, hints = entry.defaults(), get_type_hints(entry.options)
    for name, value in options.items():
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise OptionError(f"method {method!r} has no option {name!r}; {takes}{_meant(name, known)}")
        _check_type(method, name, value, hints[name])
    return _callable(entry.options(**options), method)


def _callable(method: Any, name: str | None) -> Method:
    """A method as a function of a problem; layer methods are applied from the last layer to the first."""
    layerwise = name is not None and METHODS[name].layerwise
    return Layerwise(method, str(name)) if layerwise else method


# Arguments of unrelu.invert, and names that other libraries or methods use for arguments and options.
_ARGUMENTS = (
    "operator", "noise", "bounds", "norm", "loss", "prior", "z0", "sequence", "seed", "device", "time_limit",
    "callback", "progress", "scale",
)  # fmt: skip
_ALIASES = {
    "mask": "operator", "physics": "operator", "measurement": "operator", "sigma": "noise", "std": "noise",
    "noise_level": "noise", "eps": "noise", "x0": "z0", "init": "z0", "timeout": "time_limit", "random_state": "seed",
    "max_iter": "max_iterations", "maxiter": "max_iterations", "n_iter": "max_iterations", "lr": "learning_rate",
}  # fmt: skip


def _meant(name: str, known: Mapping[str, Any]) -> str:
    """The end of an error message: the option that may have been meant by an unknown name."""
    names = [*known, *_ARGUMENTS]
    if name in _ARGUMENTS:  # as of unrelu.run, which has fewer
        return f"; {name}= goes with unrelu.invert, not with this call"
    if _ALIASES.get(name) in names:
        return f"; did you mean {_ALIASES[name]!r}?"
    others = (other for other, entry in METHODS.items() if name in entry.defaults())
    other = next(others, None)
    return nearest(name, names) if other is None else f"; it is one of method={other!r}"


_KINDS: dict[type, tuple[str, type]] = {
    str: ("a string", str),
    int: ("a whole number", Integral),
    float: ("a number", Real),
    bool: ("a truth value, True or False", bool),
}


def _check_type(method: str, name: str, value: Any, hint: Any) -> None:
    """Check a value against the annotation of its field. NumPy numbers are numbers; True and False are not."""
    kinds = get_args(hint) or (hint,)
    if value is None and type(None) in kinds:
        return
    wanted, accepted = zip(*(_KINDS[kind] for kind in kinds if kind is not type(None)), strict=True)
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in kinds):
        raise OptionError(f"option {name}={value!r} of method {method!r} must be {' or '.join(wanted)}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise OptionError(f"option {name} of method {method!r} has {len(str(abs(value)))} digits; pass less than 2^63")
