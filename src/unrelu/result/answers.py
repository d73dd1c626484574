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
from unrelu.runtime.argument_checks import whole_number
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.words import count

if TYPE_CHECKING:
    from unrelu.display.observation_figure import ObservationFigure, ObservationPanels

# Makes panels (ObservationPanels) for arrays to be drawn as the outputs of observations, (b, *output_shape).
Panels = Callable[[Array], "ObservationPanels"]
# The number of observations drawn by default.
DRAWN = 8


def squeezed(problem: Problem, values: Any) -> Any:
    """Return the values of a batch as users see them: the one value if the problem is of a single observation."""
    first = values[0] if problem.single else values
    return first.item() if isinstance(first, np.generic) else first


class Answers:
    """The answers to a batch of observations, or to a single observation, without a batch axis.

    ``print`` says what was found. An index selects the answer to one observation. A slice, a boolean mask (B,) or an
    array of indices selects several answers.
    """

    problem: Problem
    # Names for messages: the kind of answer, a variable, and two of its attributes.
    _called: ClassVar[tuple[str, str, str]]

    # Subclasses define these. _part: answers to some observations, given their problem. _printed: the text to print, in
    # a notebook with pictures. _label: the text beside an observation's pictures. _figure: a figure, given
    # observations, words for the title, panels and a slice of outputs. _write: write the file. _flat: codes, (..., k).
    _part: Callable[[Index, Problem], Self]
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
        """Check whether there is any observation; ``status`` says what was found."""
        return self.problem.size > 0

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Self:
        """Select the answer to one observation, or several by a slice, a boolean mask (B,) or an array of indices.

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
        rows = np.atleast_1d(chosen)
        return self._part(rows, replace(self.problem.part(rows), single=not chosen.ndim))

    # --- printing and pictures ----------------------------------------------------------------------------------------

    def __str__(self) -> str:
        """Say what was found, in at most 15 lines."""
        return str(self._printed(False))

    def _repr_html_(self) -> str:
        """Return the same text as HTML for notebooks, with pictures."""
        return self._printed(True).html()

    def plot(
        self,
        observations: Any = None,
        max_observations: int = DRAWN,
        shape: tuple[int, ...] | None = None,
        part: str | None = None,
    ) -> ObservationFigure:
        """Draw observations and answers, one row for each observation, with common scales.

        A result is drawn as reconstruction and residual. A posterior is drawn as mean, standard deviation and four
        draws of G(z), from up to 1,000 evenly spaced draws; curves have a band of 90% intervals.

        Black and white are the ends of the generator's range. The range is known for a final sigmoid or tanh, and for a
        scale of pictures. Otherwise it goes from the least to the largest of typical outputs.

        Outputs (H, W), (1, H, W) and (3, H, W) are drawn as pictures. Flat outputs are drawn as pictures if the number
        of entries is a square and they vary as in a picture. All others are curves. Hidden entries stay blank. The
        colours of residuals are symmetric about 0.

        Args:
            observations: an index or several; None for the first ones.
            max_observations: the largest number of rows; further observations are not drawn.
            shape: the shape in which outputs are drawn, (H, W) or (3, H, W) for pictures, (n,) for curves.
            part: the named part of the output to draw (:meth:`unrelu.Generator.with_parts`); None draws all of it.

        Returns:
            A Matplotlib figure that is not registered with pyplot: a notebook shows it, ``savefig`` writes it.

        Raises:
            OptionError: ``max_observations`` is not an integer of at least 1, or outputs cannot have that ``shape``.
            InputError: the part is unknown; a matrix or function mixed the parts; or a posterior was loaded without its
                network.
            IndexError: there is no such observation.

        >>> import unrelu
        >>> net = unrelu.zoo.load("mnist-relu")
        >>> figure = unrelu.invert(net, unrelu.zoo.digits()[0][:3].reshape(3, 784), "lm").plot([0, 2])
        >>> len(figure.axes)  # two rows of three, and the colour bar
        7
        """
        single, size = self.problem.single, self.problem.size
        most, asked = whole_number("max_observations", max_observations, 1), f"observations={observations!r}"
        if single and observations is not None:
            raise IndexError(f"{asked}: there is one observation; leave it out")
        rows = np.arange(size)[slice(None) if observations is None else observations].reshape(-1)[:most]
        if not len(rows):
            raise IndexError(f"{asked}: there is nothing to draw")
        labels = [("" if single else f"{i}\n") + self._label(int(i)) for i in rows]
        of = "" if single else f"{len(rows)} of {count(size, 'observation')}, "
        place = slice(None) if part is None else self._place(part)
        panels = partial(self._panels, rows, labels=labels, shape=shape, part=part)
        return self._figure(rows, of if part is None else f"{part}, {of}", panels, place)

    def _place(self, part: str) -> slice:
        """Find the entries of a named part in the output.

        Raises:
            InputError: the part is unknown, or a matrix or function mixed the parts.
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
        """Collect the panels of some observations, without whitening.

        Args:
            rows: the observations.
            outputs: the outputs to draw, (b, *output_shape).
            labels: the text beside each observation.
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
        """The coordinates of z by name, or z0, z1, ...: each a number, (B,), or (chain, draw) for a posterior.

        A nuisance parameter (:func:`unrelu.extend`) replaces its coordinate.
        """
        names = self.problem.names
        columns = np.moveaxis(names.parameters_of(self._flat), -1, 0)
        return dict(zip(names.parameter_names, columns if columns.ndim > 1 else columns.tolist(), strict=True))

    def save(self, path: str | Path) -> None:
        """Write a ``.npz`` file, which :func:`unrelu.load_result` or :func:`unrelu.load_posterior` reads.

        The file contains codes, reconstructions and the verdict, or draws with their log-likelihoods and modes. It also
        contains y, noise, bounds, prior, operator, options, the version, the network's fingerprint and a digest.
        Nothing is pickled. The file appears complete or not at all. A measurement given as code is saved as A G(z) at
        codes.

        Raises:
            InputError: the suffix is not .npz, the folder does not exist, or a posterior was loaded without its
                network.
            StorageError: the disk is full or cannot be written to.
        """
        self._write(Path(path))
