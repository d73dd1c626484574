"""What an observation says of a code that is no success: codes seem to have another scale."""

from __future__ import annotations

import weakref

import numpy as np

from unrelu.models.generator import Generator
from unrelu.problem import Problem
from unrelu.runtime.words import number

# Codes seem to have another scale if outputs of N(0, I) are so many times as large as y, or as small; or if a hundredth
# of the code has this share of the effect of all of it: .01 for a linear generator, up to .04 for those of the zoo.
_UNUSUAL, _STEEP = 10.0, 0.3
_effects: weakref.WeakKeyDictionary[Generator, float] = weakref.WeakKeyDictionary()


def scale_hint(problem: Problem, i: int) -> str:
    """The beginning of a message about an observation whose codes seem to have another scale; else empty."""
    network, size = problem.network, float(np.linalg.norm(problem.y[i]))
    if not size or not (problem.bounds.none and problem.units.latent is None and problem.normal is None):
        return ""
    typical = network.typical_outputs
    measured = problem.operator.take(np.full(len(typical), i)).values(typical)
    ratio = float(np.median(np.linalg.norm(measured, axis=1))) / size
    if 0 < ratio < np.inf and not 1 / _UNUSUAL < ratio < _UNUSUAL:
        times = f"{number(max(ratio, 1 / ratio))} times as {'large' if ratio > 1 else 'small'}"
        return f"outputs of codes from N(0, I) are {times} as y: state the scale of codes by bounds= or prior=; "
    steep = "a hundredth of a code from N(0, I) changes outputs nearly as much as all of it"
    return f"{steep}: state the scale of codes by bounds= or prior=; " if _effect(network) > _STEEP else ""


def _effect(network: Generator) -> float:
    """The median of ``|G(z / 100) - G(0)| / |G(z) - G(0)|`` over typical codes."""
    if network not in _effects:
        z = network.typical_codes
        none, short, whole = (network.outputs(share * z).reshape(len(z), -1) for share in (0.0, 0.01, 1.0))
        with np.errstate(all="ignore"):
            ratio = np.linalg.norm(short - none, axis=1) / np.linalg.norm(whole - none, axis=1)
        _effects[network] = float(np.median(ratio))
    return _effects[network]
