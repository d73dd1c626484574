"""What a method cannot invert is refused before it starts, and what the message names can."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from tests.support import random_network
from unrelu.errors import InputError, UnsupportedModelError
from unrelu.methods import METHODS, Options, make, refuse
from unrelu.models.activations import Activation
from unrelu.models.network import Network

LAYERWISE = [name for name, entry in METHODS.items() if entry.layerwise]
# A method with the options by which it inverts layer by layer.
BY_LAYERS = [*((name, {}) for name in LAYERWISE), ("lm", {"start": "linf"})]
RNG = np.random.default_rng(5)
WIDE = random_network((3, 8, 40))
NARROW = random_network((3, 12, 8, 40))
SIGMOID = unrelu.from_arrays(
    [RNG.standard_normal((8, 3)), RNG.standard_normal((40, 8))], activation=["relu", "sigmoid"]
)
MATRIX = RNG.standard_normal((20, 40))
QUICK = {"auto": {"rounds": 1}, "lm": {"max_iterations": 5}}


class Residual(nn.Module):
    """No chain of layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 40)

    def forward(self, z):
        h = torch.relu(self.first(z))
        return torch.relu(self.last(h + torch.cos(h)))


def prelu() -> Network:
    steps = [layer.affine.steps for layer in WIDE.layers]
    return Network.chain([*steps[0], Activation("prelu", np.linspace(-0.5, 0.5, 8)), *steps[1]], (3,))


OPAQUE = unrelu.from_torch(Residual().eval(), latent_shape=(3,))


def saturated(x):
    return torch.tanh(x)


CASES = {
    "no chain": (OPAQUE, {}, "no chain|breaks|needs a chain of layers"),
    "a narrow layer": (NARROW, {}, r"layer 2 \(12 -> 8\) has fewer outputs than inputs"),
    "a negative slope": (prelu(), {}, r"layer 1 has a PReLU with a negative slope"),
}
MEASURED = {
    "few observed": (WIDE, np.arange(40) < 6, r"layer 2 \(8 -> 40, of which 6 are observed\) has fewer outputs"),
    "a matrix behind an activation": (
        SIGMOID,
        MATRIX,
        r"operator= mixes the outputs of the last activation \(sigmoid\)",
    ),
    "a function": (WIDE, saturated, "operator= is a function"),
}


def refused(network, y, method, options, **stated) -> str:
    """The message, which is raised before anything is computed, by the front door and by the check alone."""
    problem = unrelu.Problem.build(network, y, **stated)
    with pytest.raises((UnsupportedModelError, InputError)) as early:
        refuse(make(method, options), problem)
    with pytest.raises((UnsupportedModelError, InputError)) as error:
        unrelu.invert(network, y, method, **stated, **options, callback=lambda progress: pytest.fail("it started"))
    assert str(error.value) == str(early.value)
    return str(error.value)


def named_methods(message: str) -> list[str]:
    return [name for name in re.findall(r"'(\w+)'", re.split(r": use|, use|; use", message)[-1]) if name in METHODS]


def run_what_is_named(message, network, y, **stated):
    names = [name for name in named_methods(message) if name in QUICK]
    assert names, message
    for name in names:
        assert np.isfinite(unrelu.invert(network, y, name, **stated, **QUICK[name]).z).all()


@pytest.mark.parametrize(("method", "options"), BY_LAYERS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_generators_that_cannot_be_inverted_layer_by_layer(case, method, options):
    network, stated, said = CASES[case]
    y = network(RNG.standard_normal(3))
    message = refused(network, y, method, options, **stated)
    assert re.search(said, message)
    run_what_is_named(message, network, y)


@pytest.mark.parametrize(("method", "options"), BY_LAYERS, ids=str)
@pytest.mark.parametrize("case", MEASURED)
def test_measurements_that_make_no_layer_of_the_last_one(case, method, options):
    network, operator, said = MEASURED[case]
    x = network(RNG.standard_normal(3))
    y = MATRIX @ x if operator is MATRIX else np.tanh(x) if operator is saturated else x
    message = refused(network, y, method, options, operator=operator)
    assert re.search(said, message)
    run_what_is_named(message, network, y, operator=operator)


@pytest.mark.parametrize("method", LAYERWISE)
def test_counts_for_methods_of_errors_that_are_added(method):
    message = refused(WIDE, np.ones(40), method, {}, noise="poisson")
    assert "has a deviance" in message
    run_what_is_named(message, WIDE, np.ones(40), noise="poisson")


@pytest.mark.parametrize("method", LAYERWISE)
def test_priors_for_methods_that_have_no_code_to_weigh(method):
    assert "inverts layers, which have no |z|^2" in refused(WIDE, WIDE(np.ones(3)), method, {}, prior=0.1)


def test_some_observations_may_show_too_little():
    """Of masks that differ only those with too few entries are lost, and say so."""
    masks = np.arange(40) < np.array([[40], [6]])
    found = unrelu.invert(WIDE, WIDE(RNG.standard_normal((2, 3))), "linf", operator=masks)
    assert found.status[0].name == "EXACT_FIT"


def test_editors_know_the_options_of_every_method():
    known = {name for entry in METHODS.values() for name in entry.defaults()}
    assert known == Options.__annotations__.keys()
    assert all(f"``{name}``" in unrelu.invert.__doc__ for name in METHODS["auto"].defaults())
