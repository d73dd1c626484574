"""The paper's figures, theorems and claims, run again and gone beyond: ``unrelu reproduce``.

One file a figure. Each defines an :class:`~unrelu_studies.paper.experiment.Experiment`: what is run, the picture of it,
and what the paper says beside what came out. To add one, write it in a file of this package and give its name a line in
:data:`MODULES`; the command line, the page of the documentation and the tests go over that table.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from unrelu.errors import OptionError

if TYPE_CHECKING:
    from unrelu_studies.paper.experiment import Experiment
    from unrelu_studies.paper.generators import TrainedGenerator

__all__ = ["MODULES", "ON_A_NETWORK", "load"]

# Names in the order of the page, with the file of each. Importing this table loads no heavy library.
MODULES = {
    "fig1a": "figure1",
    "fig1b": "figure1",
    "fig1c": "figure1",
    "fig1d": "figure1",
    "stuck": "stuck",
    "fig2a": "figure2",
    "fig2b": "figure2",
    "descent": "descent",
    "fig3": "figure3",
    "fig4": "figure4",
    "relaxed": "relaxed",
    "leaky": "leaky",
    "times": "times",
    "depth": "depth",
    "contracting": "contracting",
    "theorem1": "theorem1",
    "example1": "theorem1",
    "theorem2": "theorem2",
    "bounds": "bounds",
    "constants": "constants",
    "measurements": "measurements",
    "plugin": "plugin",
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
