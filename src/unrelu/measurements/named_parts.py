r"""Observations, noise and operators by part, for a generator whose output consists of named parts.

An emulator with several heads returns several summaries, and each is measured with its own errors. The output is the
vector of its parts :math:`x_p`, one after the other (:meth:`unrelu.Generator.with_parts`). Dictionaries state by name
what was measured:

.. math:: y_p = A_p x_p + e_p

- Parts that y leaves out are not observed.
- The noise of a part is a standard deviation (a number or an array), a text such as "uniform:0.1", or a model. All
  parts have :class:`~unrelu.Gaussian` noise, or all have :class:`~unrelu.Uniform` noise. Errors of different parts are
  independent. A model or text outside a dictionary applies to all observed entries, in the order of the parts. An
  example is a covariance across parts, ``Gaussian(covariance=C)``.
- Gaussian noise with an unknown level has one level for all parts, or one for each of some parts: ``extra=`` is a
  dictionary by part, or the noise of these parts has ``extra=``.
- The operator of a part is a mask or a matrix. Parts without an operator are observed as they are.

The dictionaries are joined into one observation, one noise model and one operator for the whole output. If operators
are masks, y has all entries of the output, some of them hidden. Otherwise, or if a covariance has only the measured
entries, y has the entries that were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, sparse

from unrelu.errors import InputError
from unrelu.measurements.additive_noise import Gaussian, Uniform
from unrelu.measurements.noise import Noise, parse_noise
from unrelu.measurements.operator_arguments import Mask, Matrix, read_operator
from unrelu.measurements.operators import Operator
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array, Flags, Shape
from unrelu.runtime.words import nearest


class _Part(NamedTuple):
    """The measurement of one part: A_p, y_p (B, m), whether y_p has no batch axis, and which entries are observed."""

    operator: Operator
    values: Array
    single: bool
    seen: Flags


def joined(names: Names, y: Any, noise: Any, operator: Any, argument: str = "y") -> tuple[Any, Any, Any]:
    """Join y, noise and operator that are given by part for the whole output. Other arguments stay as they are.

    ``argument`` is the name of y in messages.

    Raises:
        InputError: the output has no named parts; a name is unknown; a part has another shape; parts have different
            numbers of observations; noise is missing, is given for a part that is not observed, or cannot be combined;
            or the operator of a part is not a mask or matrix.
    """
    levelled = isinstance(noise, Gaussian) and noise.by_part
    if not levelled and not any(isinstance(given, Mapping) for given in (y, noise, operator)):
        return y, noise, operator
    if not names.parts:
        raise InputError(
            "a dictionary by part was passed, and the generator's output has no named parts; name them by output=[...] "
            "of from_torch or load, or by network.with_parts({'name': size, ...})"
        )
    if not isinstance(y, Mapping):
        if isinstance(operator, Mapping) or not read_operator(operator, names.output_shape, np.shape(y)).output_shaped:
            raise InputError(
                "noise= or operator= is given by part, and y is not that of the whole output: pass a dictionary by "
                "part as y, too"
            )
        n = math.prod(names.output_shape)
        parts = {name: _measured(name, shape, np.zeros(shape), None) for name, shape in names.parts.items()}
        every = np.ones(n, dtype=bool)
        own = _with_members(noise, parts, every) if levelled else _noise(noise, parts, every, max(1, np.size(y) // n))
        return y, own, operator
    parts = _parts(names, y, operator, argument)
    size, single = max(len(part.values) for part in parts.values()), all(part.single for part in parts.values())
    seen = np.concatenate([part.seen for part in parts.values()])
    values = np.concatenate([np.broadcast_to(p.values, (size, p.operator.m)) for p in parts.values()], axis=1)
    kept = np.ones_like(seen)
    measured: Mask | Matrix | None = None if seen.all() else Mask(seen)
    whole = all(part.operator.output_shaped for part in parts.values())
    if whole and isinstance(noise, Gaussian) and noise.covariance is not None and not seen.all():
        whole = len(noise.covariance) != seen.sum()
    if not whole:
        blocks = [sparse.csr_array(part.operator.matrix()[part.seen]) for part in parts.values()]
        kept, measured = seen, Matrix(sparse.block_diag(blocks))
    if isinstance(noise, Mapping):
        noise = _noise(noise, parts, kept, size)
    elif levelled:
        noise = _with_members(noise, parts, kept)
    return values[0, kept] if single else values[:, kept], noise, measured


def _parts(names: Names, y: Mapping[Any, Any], operator: Any, argument: str) -> dict[str, _Part]:
    """Read the measurement of each part, in the order of the output."""
    if operator is not None and not isinstance(operator, Mapping):
        raise InputError(
            f"{argument} is given by part, so operator= must be a dictionary of masks and matrices by part, too"
        )
    values, maps = _named(y, names.parts, argument), _named(operator or {}, names.parts, "operator")
    if not values:
        raise InputError(f"{argument} has no part; those of the output are {', '.join(names.parts)}")
    if idle := [name for name in maps if name not in values]:
        raise InputError(f"operator= has the part {idle[0]!r}, and y has not; measure it, or leave it out")
    parts = {}
    for name, shape in names.parts.items():
        part = _measured(name, shape, values.get(name, np.zeros(shape)), maps.get(name), argument)
        parts[name] = part if name in values else part._replace(seen=np.zeros_like(part.seen))
    sizes = {name: len(parts[name].values) for name in values}
    if len(set(sizes.values())) > 1:
        raise InputError(f"parts of {argument} have different numbers of observations: {sizes}")
    return parts


def _named(given: Mapping[Any, Any], parts: Mapping[str, Any], argument: str) -> dict[str, Any]:
    """Check that all names in a dictionary are parts, and convert names to text: they may be indices of outputs."""
    named = {str(name): value for name, value in given.items()}
    if unknown := [name for name in named if name not in parts]:
        raise InputError(
            f"{argument} has the part {unknown[0]!r}; those of the output are {', '.join(parts)}"
            f"{nearest(unknown[0], parts)}"
        )
    return named


def _measured(name: str, shape: Shape, y: Any, operator: Any, argument: str = "y") -> _Part:
    values = numbers(y, f"{argument}[{name!r}]")
    try:
        measured = read_operator(operator, shape, values.shape)
    except InputError as error:
        raise InputError(f"part {name!r}: {error}") from error
    if not measured.linear or measured.count:
        raise InputError(f"operator= of part {name!r} must be a matrix, or one mask for all observations")
    m, own = measured.m, (measured.shape, (measured.m,))
    single = values.shape in own or (m == 1 and not values.ndim)
    if not (single or values.shape[1:] in own or (m == 1 and values.ndim == 1)) or not values.size:
        raise InputError(
            f"{argument}[{name!r}] has shape {values.shape}; pass one observation of shape {measured.shape}, or a "
            "batch of these"
        )
    return _Part(measured, values.reshape(-1, m), single, measured.seen(1)[0])


def _with_members(noise: Gaussian, parts: Mapping[str, _Part], kept: Flags) -> Gaussian:
    """Complete noise whose unknown levels are given by part: find the part of each of the kept entries."""
    named = [*_named(dict.fromkeys(noise.parts), parts, "extra")]
    if idle := [name for name in named if not parts[name].seen.any()]:
        raise InputError(f"extra= has the part {idle[0]!r}, and y has not; measure it, or leave it out")
    places = [np.full(part.operator.m, named.index(name) if name in named else -1) for name, part in parts.items()]
    return replace(noise, members=np.concatenate(places)[kept])


def _noise(given: Mapping[Any, Any], parts: Mapping[str, _Part], kept: Flags, size: int) -> Noise:
    """Make the noise model for the kept entries. Errors of different parts are independent."""
    named, observed = _named(given, parts, "noise"), [name for name, part in parts.items() if part.seen.any()]
    if set(named) != set(observed):
        raise InputError(
            f"noise= is that of {', '.join(named)}, and y has {', '.join(observed)}; state it for each measured part, "
            "and for no other"
        )
    models = {name: parse_noise(v) if isinstance(v, Noise | str) else Gaussian(v) for name, v in named.items()}
    if wrong := [name for name, model in models.items() if getattr(model, "relative", None) is not None]:
        raise InputError(f"noise of part {wrong[0]!r}: relative= is of the whole output; state extra= of this part")
    kinds: set[Any] = {type(model) for model in models.values()}
    if kinds not in ({Gaussian}, {Uniform}):
        stated = ", ".join(f"{name}: {model}" for name, model in models.items())
        raise InputError(f"noise= by part is Gaussian for every part, or uniform for every part; got {stated}")
    factors = {name: model.cholesky() for name, model in models.items()}
    sizes = {name: np.full(part.operator.m, np.inf) for name, part in parts.items()}
    for name, model in models.items():
        try:
            sizes[name] = model.spread(parts[name].operator.shape, size) + np.zeros(parts[name].operator.m)
        except InputError as error:
            raise InputError(f"noise of part {name!r}: {error}") from error
    several = any(level.ndim == 2 for level in sizes.values())
    levels = np.concatenate([np.broadcast_to(s, (size, len(s.T)) if several else s.shape) for s in sizes.values()], -1)
    ranges = {name: m.ranges[0] for name, m in models.items() if isinstance(m, Gaussian) and m.level_unknown}
    if all(factor is None for factor in factors.values()):
        noise: Noise = kinds.pop()(levels[..., kept])
        return _with_members(Gaussian(noise.level, extra=ranges), parts, kept) if ranges else noise
    if ranges:
        raise InputError(f"noise= of part {next(iter(ranges))!r} has an unknown level, and another part a covariance")
    if several:
        raise InputError("noise= has a covariance, which all observations share, and standard deviations for each")
    # Hidden entries need some variance; it has no effect.
    seen = np.concatenate([part.seen for part in parts.values()])
    variances = np.where(seen, levels, levels[seen].max()) ** 2
    own = np.split(variances, np.cumsum([part.operator.m for part in parts.values()])[:-1])
    known = [factors.get(name) for name in parts]
    blocks = [np.diag(v) if factor is None else factor @ factor.T for factor, v in zip(known, own, strict=True)]
    return Gaussian(covariance=linalg.block_diag(*blocks)[np.ix_(kept, kept)])
