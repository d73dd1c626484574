"""What a result and a posterior share: a batch of answers as a sequence, as text, and beside its observations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from unrelu.display.text_tables import Printed
from unrelu.measurements.picture_scale import black_and_white
from unrelu.measurements.whitening import known_entries, stated_sizes
from unrelu.problem import Problem
from unrelu.result.saved_problem import AbsentGenerator
from unrelu.runtime.array_types import Array, Index

if TYPE_CHECKING:
    from unrelu.display.observation_figure import ObservationPanels


class Answers:
    """The answers to the observations of a problem, or to its only one, which has no batch axis.

    ``print`` says what was found. An index gives the answer to one observation; a slice, a boolean mask (B,) or an
    array of indices gives those to several.
    """

    problem: Problem
    # What messages call it: the kind, a variable, and two of its attributes.
    _called: ClassVar[tuple[str, str, str]]

    def _part(self, rows: Index, single: bool) -> Self:
        """The answers to some observations; ``single`` says that it is one without a batch axis."""
        raise NotImplementedError

    def _printed(self, notebook: bool = False) -> Printed:
        """What is printed; in a notebook, with pictures where there are some."""
        raise NotImplementedError

    # --- a batch as a sequence ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        if self.problem.single:
            raise TypeError(
                f"a {self._called[0]} of one observation has no len(); its attributes are that observation's. Pass a "
                "batch, y[None], for one with arrays"
            )
        return self.problem.size

    def __bool__(self) -> bool:
        """Whether there is any observation; ``status`` says what was found."""
        return self.problem.size > 0

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Self:
        """The answer to one observation, or to several by a slice, a boolean mask (B,) or an array of indices.

        Raises:
            TypeError: this is the answer to one observation, without a batch axis.
            IndexError: there is no such observation, or the index is not an integer, slice, mask or array of integers.
        """
        kind, name, attributes = self._called
        if self.problem.single:
            raise TypeError(f"a {kind} of one observation cannot be indexed: {attributes}, ... are that observation's")
        chosen = np.arange(len(self))[index]
        if chosen.ndim > 1:
            raise IndexError(
                f"a {kind} is indexed by observations, {name}[3], {name}[[3, 7]], {name}[mask]; got {index!r:.80}"
            )
        return self._part(np.atleast_1d(chosen), single=not chosen.ndim)

    def _problem_of(self, rows: Index, single: bool) -> Problem:
        """The problem of some observations."""
        return replace(self.problem.part(rows), single=single)

    def _each(self, values: Any) -> Any:
        """Values of the batch, or that of the one observation."""
        first = values[0] if self.problem.single else values
        return first.item() if isinstance(first, np.generic) else first

    # --- printing and pictures ----------------------------------------------------------------------------------------

    def __str__(self) -> str:
        """What was found, in at most 15 lines."""
        return str(self._printed())

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return self._printed(notebook=True).html()

    def _panels(
        self, rows: Index, outputs: Array, labels: Sequence[str], shape: Any = None, part: str | None = None
    ) -> ObservationPanels:
        """What is drawn of some observations, without whitening.

        Args:
            rows: the observations.
            outputs: what is drawn as the output of each, (b, *output_shape).
            labels: the text beside each.
            shape: the shape in which outputs are drawn, (n,) for curves; None uses their own shape.
            part: the named part of the output that is drawn; None draws all of it.

        Raises:
            OptionError: outputs cannot have that shape.
        """
        from unrelu.display.answer_figures import picture_shape  # noqa: PLC0415 -- Matplotlib, where it is used
        from unrelu.display.observation_figure import ObservationPanels  # noqa: PLC0415
        from unrelu.display.pixels import drawn_shape  # noqa: PLC0415

        stated = self.problem.stated.part(rows)
        size, operator, network = len(rows), stated.operator, stated.network
        place, own = slice(None), network.output_shape
        if part is not None:
            place, own = stated.names.places[part], stated.names.parts[part]
        flat = outputs.reshape(size, network.output_dim)[:, place]
        output, sizes = picture_shape(own, flat, shape), stated_sizes(stated.noise, operator, size)
        measured = drawn_shape(operator.shape) if sum(n > 1 for n in operator.shape) > 1 else None
        plain = isinstance(network, AbsentGenerator) or output is None or part is not None
        return ObservationPanels(
            labels,
            np.where(known_entries(stated.noise, operator, size), stated.y, np.nan)[:, place],
            stated.mean_of(outputs)[:, place],
            flat,
            output if operator.output_shaped else measured,
            output,
            operator.output_shaped,
            None if sizes is None else sizes[:, place],
            None if plain else black_and_white(network),
        )
