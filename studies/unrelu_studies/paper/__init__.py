"""The paper's figures, theorems and claims, run again and gone beyond: ``unrelu reproduce``.

One file a figure (``figures``), theorem or remark (``theorems``). Each defines an
:class:`~unrelu_studies.paper.experiment.Experiment`: what is run, the picture of it, and what the paper says beside
what came out. To add one, write it there and give its name a line in :data:`MODULES`; the command line, the page of the
documentation and the tests go over that table.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from unrelu.errors import OptionError

if TYPE_CHECKING:
    from unrelu_studies.kit.trained_generators import TrainedGenerator
    from unrelu_studies.paper.experiment import Experiment

# Names in the order of the page, with the file of each. Importing this table loads no heavy library.
MODULES = {
    "fig1a": "figures.figure1",
    "fig1b": "figures.figure1",
    "fig1c": "figures.figure1",
    "fig1d": "figures.figure1",
    "stuck": "figures.stuck",
    "fig2a": "figures.figure2",
    "fig2b": "figures.figure2",
    "fig3": "figures.figure3",
    "fig4": "figures.figure4",
    "relaxed": "theorems.relaxed",
    "leaky": "theorems.leaky",
    "theorem1": "theorems.theorem1",
    "example1": "theorems.theorem1",
    "theorem2": "theorems.theorem2",
    "bounds": "theorems.theorem_bounds",
}

# Those that run on a user's generator as well.
ON_A_NETWORK = ("fig1c", "fig1d", "fig3", "fig4")


def load(name: str, generator: TrainedGenerator | None = None) -> Experiment:
    """The experiment of that name, on a generator from a file instead of ours if one is given.

    Raises:
        OptionError: there is none, or it does not run on a generator from a file.
    """
    if name not in MODULES:
        raise OptionError(f"experiment {name!r} is unknown; use one of {', '.join(MODULES)}")
    if generator is not None and name not in ON_A_NETWORK:
        raise OptionError(
            f"experiment {name!r} has networks of its own; --network goes with {', '.join(ON_A_NETWORK)}: unrelu "
            f"reproduce {' '.join(ON_A_NETWORK)} --network FILE"
        )
    module = import_module(f"unrelu_studies.paper.{MODULES[name]}")
    return cast("Experiment", module.on_a_network(name, generator) if generator else module.EXPERIMENTS[name])
