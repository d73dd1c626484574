"""Intermediate-layer optimisation: its rounds, its learning rate, its ball, and the code that it ends with."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.baselines import ilo
from unrelu.baselines.ilo import Ilo, onto_l1_ball
from unrelu.errors import OptionError
from unrelu.result import Status

NETWORK = random_network((4, 12, 30), activation="tanh", seed=1)
RNG = np.random.default_rng(1)
Y = RNG.standard_normal((3, 30))
CONSTANT = {"rampup": 0.0, "rampdown": 0.0, "learning_rate": 0.01}


def invert(**options):
    return unrelu.invert(NETWORK, Y, "ilo", **options)


def test_without_intermediate_layers_and_ramps_it_is_adam():
    adam = {"learning_rate": 0.01, "restarts": 1, "max_iterations": 40, "gradient_tolerance": 0.0}
    expected = unrelu.invert(NETWORK, Y, "adam", prior=0.2, **adam)
    result = invert(steps="40", prior=0.2, **CONSTANT)
    np.testing.assert_array_equal(result.z, expected.z)
    np.testing.assert_array_equal(result.nit, expected.nit)
    one_layer = unrelu.from_arrays([RNG.standard_normal((9, 3))])
    y = RNG.standard_normal(9)
    expected = unrelu.invert(one_layer, y, "adam", **adam)
    np.testing.assert_array_equal(unrelu.invert(one_layer, y, "ilo", steps="40,30,20", **CONSTANT).z, expected.z)


def test_the_learning_rate_rises_and_falls_as_released():
    rate = partial(Ilo(learning_rate=0.2).rate, 100)
    assert rate(0) == 0
    assert rate(2) == pytest.approx(0.2 * 0.4)
    assert rate(5) == rate(25) == pytest.approx(0.2)
    # Half way down the last three quarters.
    assert rate(62.5) == pytest.approx(0.1)
    assert rate(99) == pytest.approx(0.2 * (0.5 - 0.5 * np.cos(np.pi * 0.01 / 0.75)))


def test_later_rounds_start_at_what_the_layers_below_make(monkeypatch):
    """The image is that of the code before a round changes it, and the loss is that of the whole generator."""
    starts = []
    original = ilo.descend

    def spy(h, *rest):
        starts.append(h.clone().numpy())
        return original(h, *rest)

    monkeypatch.setattr(ilo, "descend", spy)
    network = random_network((4, 12, 20, 30), activation="tanh", seed=1)
    result = unrelu.invert(network, network(RNG.standard_normal((2, 4))), "ilo", steps="5,0,4", back_steps=7)
    z0, h1, h2, back = starts
    after = unrelu.invert(network, network(z0), "ilo", steps="5", z0=z0).z
    assert z0.shape == after.shape == back.shape
    np.testing.assert_allclose(h1, network.trace(back)[0], rtol=1e-12)
    np.testing.assert_allclose(h2, network.trace(back)[1], rtol=1e-12)
    assert result.nit.tolist() == [5 + 0 + 4 + 7] * 2


def test_the_intermediate_rounds_improve_the_code():
    """A short first round leaves an objective that the hidden layer fits better, and its code does too."""
    network = random_network((4, 30, 120), seed=1)
    y = network(np.random.default_rng(3).standard_normal((8, 4)))
    first = unrelu.invert(network, y, "ilo", steps="40")
    more = unrelu.invert(network, y, "ilo", steps="40,200")
    assert (more.fun <= first.fun).all()
    assert (more.fun <= 0.5 * first.fun).sum() >= 4


def test_a_ball_of_radius_zero_keeps_the_first_code():
    first, ball = invert(steps="30"), invert(steps="30,20", radius=0.0)
    np.testing.assert_array_equal(ball.z, first.z)


def test_hidden_vectors_stay_in_the_ball(monkeypatch):
    seen = []
    original = ilo.onto_l1_ball

    def spy(x, radius):
        seen.append((x.abs().sum(dim=1), original(x, radius).abs().sum(dim=1)))
        return original(x, radius)

    monkeypatch.setattr(ilo, "onto_l1_ball", spy)
    invert(steps="10,30", radius=0.2)
    outside, inside = (torch.stack(sums) for sums in zip(*seen, strict=True))
    assert len(seen) == 30
    assert (outside > 0.2).any()
    assert (inside <= 0.2 * (1 + 1e-12)).all()


def test_the_projection_onto_the_l1_ball_is_the_nearest_point():
    x = torch.from_numpy(RNG.standard_normal((50, 7)) * RNG.uniform(0.05, 3, (50, 1)))
    nearest = onto_l1_ball(x, 1.5)
    inside = x.abs().sum(dim=1) <= 1.5
    assert 0 < inside.sum() < 50
    torch.testing.assert_close(nearest[inside], x[inside], rtol=0, atol=0)
    torch.testing.assert_close(nearest[~inside].abs().sum(dim=1), torch.full((int((~inside).sum()),), 1.5).double())
    # (x - p).(q - p) <= 0 for every q of the ball, that is for its corners +-1.5 e_i.
    offset = x - nearest
    largest = 1.5 * offset.abs().amax(dim=1)
    assert (largest <= (offset * nearest).sum(dim=1) + 1e-12).all()
    torch.testing.assert_close(onto_l1_ball(x, 0.0), torch.zeros_like(x))


@pytest.mark.parametrize("at", [3, 12, 25])
def test_a_stop_in_any_round_returns_the_code_so_far(at):
    result = invert(steps="10,10", back_steps=10, callback=lambda p: p.nit == at)
    assert set(result.status) == {Status.STOPPED}
    assert result.nit.tolist() == [at] * 3
    first = invert(steps="10", callback=lambda p: p.nit == at)
    assert (result.fun <= first.fun).all()
    if at < 20:
        np.testing.assert_array_equal(result.z, first.z)


@pytest.mark.parametrize("steps", [30, np.int64(30), "30,"])
def test_a_number_alone_is_one_round(steps):
    np.testing.assert_array_equal(invert(steps=steps).z, invert(steps="30").z)


@pytest.mark.parametrize("steps", ["", ",", "0,3", "1.5", "10,-1", "10;20", "ten", 0, -5])
def test_bad_steps(steps):
    with pytest.raises(OptionError, match=f"steps={steps!r} must be whole numbers with commas, the first at least 1"):
        invert(steps=steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0 and finite"),
        ({"rampup": 1.5}, "rampup=1.5 must be from 0 to 1, a fraction of a round"),
        ({"rampdown": -0.5}, "rampdown=-0.5 must be from 0 to 1"),
        ({"radius": -1.0}, "radius=-1.0 must be at least 0"),
        ({"back_steps": 0}, "back_steps=0 must be at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        invert(**options)
