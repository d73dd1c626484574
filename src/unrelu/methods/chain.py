"""What the methods that open a generator up need of it: its layers."""

from __future__ import annotations

from unrelu.errors import UnsupportedModelError
from unrelu.network import Layer
from unrelu.problem import Problem

__all__ = ["layers_of"]


def layers_of(problem: Problem, method: str, why: str) -> tuple[Layer, ...]:
    """The layers of the generator.

    Raises:
        UnsupportedModelError: it is not a chain of layers.
    """
    layers: tuple[Layer, ...] | None = getattr(problem.network, "layers", None)
    if layers is None:
        raise UnsupportedModelError(
            f"method={method!r} {why}, but this generator is no chain of layers: use method='adam' or 'lm'"
        )
    return layers
