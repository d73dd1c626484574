"""What a result and a posterior share: a batch of answers as a sequence, as text, as a figure and as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from unrelu.display.text_tables import Printed
from unrelu.errors import InputError
from unrelu.measurements.picture_scale import black_and_white
from unrelu.measurements.whitening import known_entries, stated_sizes
from unrelu.problem import Problem
from unrelu.result.result_file import AbsentGenerator
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.words import count

if TYPE_CHECKING:
    from unrelu.display.observation_figure import ObservationFigure, ObservationPanels

# Makes panels (ObservationPanels) of what is drawn as the outputs of observations, (b, *output_shape).
Panels = Callable[[Array], "ObservationPanels"]
# The most observations that are drawn by default.
DRAWN = 8


class Answers:
    """The answers to the observations of a problem, or to its only one, which has no batch axis.

    ``print`` says what was found. An index gives the answer to one observation; a slice, a boolean mask (B,) or an
    array of indices gives those to several.
    """

    problem: Problem
    # What messages call it: the kind, a variable, and two of its attributes.
    _called: ClassVar[tuple[str, str, str]]

    # Both define: the answers to some observations, or to a single one without a batch axis; what is printed, in a
    # notebook with pictures; the text beside the pictures of an observation; the figure of some observations, which
    # its title names, of panels and a place in outputs; the codes, with a last axis of k coordinates; the file.
    _part: Callable[[Index, bool], Self]
    _printed: Callable[[bool], Printed]
    _label: Callable[[int], str]
    _figure: Callable[[Index, str, Panels, slice], ObservationFigure]
    _write: Callable[[Path], None]

    @property
    def _flat(self) -> Array:
        raise NotImplementedError

    # --- a batch as a sequence ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        if self.problem.single:
            raise TypeError(f"a {self._called[0]} of one observation has no len(); pass y[None] for one with arrays")
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
        return self._part(np.atleast_1d(chosen), not chosen.ndim)

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
        return str(self._printed(False))

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        return self._printed(True).html()

    def plot(
        self,
        observations: Any = None,
        max_observations: int = DRAWN,
        shape: tuple[int, ...] | None = None,
        part: str | None = None,
    ) -> ObservationFigure:
        """Draw observations and answers, a row for each observation, with common scales.

        Of a result, the reconstruction and the residual are drawn. Of a posterior, it is the mean, the standard
        deviation and four draws of G(z), by up to 1,000 evenly spaced draws; curves have a band of 90% intervals.

        Black and white are the ends of the generator's own range: those of a sigmoid or tanh at its end, of the scale
        of pictures that its outputs are on, or the least and the largest of typical outputs.

        Outputs (H, W), (1, H, W) and (3, H, W) are drawn as pictures. So are flat ones with a square number of entries
        that vary as in a picture. All others are curves. Hidden entries stay blank. The colours of residuals are
        symmetric about 0.

        Args:
            observations: an index or several; None for the first ones.
            max_observations: the most rows; further observations are not drawn.
            shape: the shape in which outputs are drawn, (H, W) or (3, H, W) for pictures, (n,) for curves.
            part: the named part of the output to draw (:meth:`unrelu.Generator.with_parts`); None draws all of it.

        Returns:
            A Matplotlib figure that is not registered with pyplot: a notebook shows it, ``savefig`` writes it.

        Raises:
            OptionError: ``max_observations`` is not an integer of at least 1, or outputs cannot have that ``shape``.
            InputError: the part is unknown, or a matrix or function mixed the parts; or the answers are a posterior
                that was loaded without its network.
            IndexError: there is no such observation.

        >>> import unrelu
        >>> net = unrelu.zoo.load("mnist-relu")
        >>> figure = unrelu.invert(net, unrelu.zoo.digits()[0][:3].reshape(3, 784), "lm").plot([0, 2])
        >>> len(figure.axes)  # two rows of three, and the colour bar
        7
        """
        from unrelu.display.answer_figures import drawn_rows  # noqa: PLC0415 -- Matplotlib, where it is used

        single, size = self.problem.single, self.problem.size
        rows = drawn_rows(size, single, observations, max_observations)
        labels = [("" if single else f"{i}\n") + self._label(int(i)) for i in rows]
        of = "" if single else f"{len(rows)} of {count(size, 'observation')}, "
        place = slice(None) if part is None else self._place(part)
        panels = partial(self._panels, rows, labels=labels, shape=shape, part=part)
        return self._figure(rows, of if part is None else f"{part}, {of}", panels, place)

    def _place(self, part: str) -> slice:
        """Where a named part is in the output.

        Raises:
            InputError: it is unknown, or a matrix or function mixed the parts.
        """
        problem = self.problem.stated
        places = problem.names.places if problem.operator.output_shaped else {}
        if part not in places:
            named = ", ".join(places) or "none: the output has no named parts, or operator= mixed them"
            raise InputError(f"part={part!r} is unknown; those of the observation are {named}")
        return places[part]

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

    # --- codes and files ----------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> dict[str, Any]:
        """The coordinates of z by name, each a number or (B,), of a posterior (chain, draw); z0, z1, ... without names.

        A nuisance parameter (:func:`unrelu.extend`) is reported itself, in place of its coordinate.
        """
        names = self.problem.names
        columns = np.moveaxis(names.parameters_of(self._flat), -1, 0)
        return dict(zip(names.parameter_names, columns if columns.ndim > 1 else columns.tolist(), strict=True))

    def save(self, path: str | Path) -> None:
        """Write a ``.npz`` file, which :func:`unrelu.load_result` or :func:`unrelu.load_posterior` reads.

        The file contains codes, reconstructions and the verdict, or draws with their log-likelihoods and modes; y,
        noise, bounds, prior, operator, options, the version, the network's fingerprint and a digest. Nothing is
        pickled. The file appears complete or not at all. For a measurement given as code, A G(z) at codes is written.

        Raises:
            InputError: the suffix is not .npz, the folder does not exist, or a posterior was loaded without its
                network.
            StorageError: the disk is full or cannot be written to.
        """
        self._write(Path(path))
