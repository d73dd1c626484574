"""Problems: what is accepted, what is refused and with which words, and what counts as a fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import image_network, random_network
from unrelu.errors import InputError, OptionError
from unrelu.measurements.noise import parse_noise
from unrelu.models.network import Network
from unrelu.problem import Problem

NET = random_network((3, 8, 20), bias=True)
IMAGE = image_network()


def observations(network: Network = NET, batch: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    z = np.random.default_rng(seed).standard_normal((batch, network.latent_dim))
    return z, network(z)


@pytest.mark.parametrize("shape", [(1, 6, 6), (36,)])
def test_one_observation_is_taken_flat_or_shaped(shape):
    _, y = observations(IMAGE)
    problem = Problem.build(IMAGE, y[0].reshape(shape))
    assert problem.single
    assert problem.size == 1
    np.testing.assert_array_equal(problem.y, y[:1].reshape(1, 36))


@pytest.mark.parametrize("shape", [(4, 1, 6, 6), (4, 36)])
def test_a_batch_is_taken_flat_or_shaped(shape):
    _, y = observations(IMAGE)
    problem = Problem.build(IMAGE, y.reshape(shape))
    assert not problem.single
    assert problem.size == 4
    np.testing.assert_array_equal(problem.y, y.reshape(4, 36))


def test_lists_integers_and_tensors_are_taken():
    y = np.arange(20)
    for same in (y, y.tolist(), torch.from_numpy(y), torch.from_numpy(y + 0.0).requires_grad_(), y.astype(object)):
        problem = Problem.build(NET, same)
        assert problem.y.dtype == np.float64
        np.testing.assert_array_equal(problem.y[0], y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(19), r"y has shape \(19,\), the network ends in \(20,\); pass one observation .* a batch \(B, 20\)"),
        (np.zeros((20, 4)), r"y has shape \(20, 4\)"),
        (np.zeros((2, 2, 20)), r"y has shape \(2, 2, 20\)"),
        (1.0, r"y has shape \(\)"),
        (np.zeros((0, 20)), r"y has shape \(0, 20\): there is no observation in it"),
        ([], r"y has shape \(0,\)"),
        ([[1.0, 2.0], [3.0]], "y cannot be read as numbers"),
        (torch.empty(20, device="meta"), "y cannot be read as numbers: .*no data"),
        (torch.ones(20).to_sparse(), "y cannot be read as numbers: .*to_dense"),
        (["a"] * 20, "y has text entries; pass real numbers"),
        (np.ones(20) * 1j, "y has complex entries"),
        (torch.ones(20) * 1j, "y has complex entries"),
        (np.zeros(20, "datetime64[s]"), "y has date entries"),
        (np.ma.masked_less(np.arange(20), 3), "y has masked entries"),
        (None, r"y has shape \(\)"),
    ],
)
def test_observations_of_another_kind_are_refused(y, message):
    with pytest.raises(InputError, match=message):
        Problem.build(NET, y)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_place(bad):
    y = np.zeros((4, 20))
    y[2, 7] = y[3, 1] = bad
    message = rf"NaN or infinite entries in 2 of 4 observations, first in observation 2, entry 7 \({bad}\)"
    with pytest.raises(InputError, match=message):
        Problem.build(NET, y)


def test_the_callers_arrays_are_neither_changed_nor_shared():
    z, y = observations()
    z0, before = z.copy(), y.copy()
    problem = Problem.build(NET, y, z0=z0)
    y[:], z0[:] = 9, 9
    np.testing.assert_array_equal(problem.y, before)
    np.testing.assert_array_equal(problem.start(), z)
    with pytest.raises(ValueError, match="read-only"):
        problem.y[0, 0] = 1


@pytest.mark.parametrize(
    ("text", "kind", "level", "norm"),
    [
        ("uniform:0.1", "uniform", 0.1, "linf"),
        ("gaussian:1e-3", "gaussian", 1e-3, "l2"),
        ("outliers:0", "outliers", 0.0, "l1"),
    ],
)
def test_stated_noise_chooses_the_norm(text, kind, level, norm):
    problem = Problem.build(NET, np.zeros(20), noise=text)
    assert (problem.noise.name, problem.noise.level, problem.norm) == (kind, level, norm)
    assert Problem.build(NET, np.zeros(20), noise=text, norm="l2").norm == "l2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cauchy:1",
         "noise='cauchy:1': use one of 'uniform:LEVEL', 'gaussian:LEVEL', 'rounding:LEVEL', 'outliers:LEVEL'"),
        ("poisson:1", "poisson has no level; write 'poisson'"),
        ("negative-binomial", "the level '' is not a number; write e.g. 'negative-binomial:0.1'"),
        ("negative-binomial:0", "must be finite and above 0, got 0"),
        (0.1, "noise=0.1: use one of 'uniform:LEVEL'"),
        ("", "noise='': use"),
        ("uniform", "the level '' is not a number; write e.g. 'uniform:0.1'"),
        ("gaussian:x", "the level 'x' is not a number; write e.g. 'gaussian:0.1'"),
        ("gaussian:nan", "must be finite and above 0, got nan"),
        ("gaussian:0", "must be finite and above 0, got 0; state none where y has no errors"),
        ("gaussian:-1", "must be finite and above 0, got -1"),
        ("uniform:inf", "must be finite and at least 0, got inf"),
        ("uniform:-0.1", "must be finite and at least 0, got -0.1"),
        ("outliers:1", "share of outliers must be below 1, got 1"),
    ],
)  # fmt: skip
def test_noise_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_noise(text)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm": "l3"}, InputError, "norm='l3' is unknown; use 'l2', 'l1', 'linf' or 'huber:D'"),
        ({"norm": 2}, InputError, "norm=2 is unknown"),
        ({"z0": np.zeros(2)}, InputError, r"z0 has shape \(2,\); this network takes codes of shape \(3,\) or \(B, 3\)"),
        ({"z0": np.zeros((3, 3))}, InputError, r"z0 has 3 codes; pass \(3,\) for all observations or \(4, 3\)"),
        ({"z0": [np.nan, 0, 0]}, InputError, "z0 has NaN or infinite entries"),
        ({"z0": "zero"}, InputError, "z0='zero' is text; pass the numbers"),
        ({"z0": np.zeros(3) * 1j}, InputError, "z0 has complex entries"),
        ({"seed": -1}, OptionError, "seed=-1 must be a whole number from 0 to"),
        ({"seed": 2**64}, OptionError,
         "seed=18446744073709551616 must be a whole number from 0 to 9223372036854775807"),
        ({"seed": 1.0}, OptionError, "seed=1.0 must be a whole number from 0 to"),
        ({"seed": True}, OptionError, "seed=True must be a whole number from 0 to"),
        ({"seed": None}, OptionError, "seed=None must be a whole number from 0 to"),
        ({"time_limit": 0}, InputError, "time_limit=0 must be above 0 seconds"),
        ({"time_limit": -1.5}, InputError, "time_limit=-1.5 must be above 0 seconds"),
        ({"time_limit": math.nan}, InputError, "time_limit=nan must be above 0 seconds"),
        ({"time_limit": "1"}, OptionError, "time_limit='1' must be a number of seconds or None"),
        ({"time_limit": True}, OptionError, "time_limit=True must be a number"),
        ({"callback": "print"}, OptionError, "callback='print' is not callable"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Problem.build(NET, np.zeros((4, 20)), **options)


def test_starts_come_from_z0_or_from_the_seed():
    y = np.zeros((4, 20))
    for seed in (1, np.int64(1)):
        start = Problem.build(NET, y, seed=seed).start()
        np.testing.assert_array_equal(start, Problem.build(NET, y, seed=1).start())
    assert (start != Problem.build(NET, y, seed=2).start()).all()
    np.testing.assert_array_equal(Problem.build(NET, y, z0=[1, 2, 3]).start(), [[1, 2, 3]] * 4)
    problem = Problem.build(NET, y, z0=start)
    problem.start()[:] = 0
    np.testing.assert_array_equal(problem.start(), start)


@given(seed=st.integers(0, 2**32 - 1))
def test_objectives_are_norms_of_the_residual(seed):
    z, y = observations(seed=seed)
    problem = Problem.build(NET, y)
    other = z[::-1]
    r = y - NET(other)
    np.testing.assert_array_equal(problem.residual(other), r)
    np.testing.assert_allclose(problem.objective(other), np.linalg.norm(r, axis=1) ** 2, rtol=1e-12)
    np.testing.assert_allclose(problem.objective(other, "l1"), np.linalg.norm(r, 1, axis=1), rtol=1e-12)
    np.testing.assert_allclose(problem.objective(other, "linf"), np.linalg.norm(r, np.inf, axis=1), rtol=1e-12)


def test_an_exact_fit_is_1e_8_of_the_largest_entry():
    z, y = observations(batch=2)
    bump = np.abs(y).max(axis=1) * [0.9e-8, 1.2e-8]
    y[:, 3] += bump
    np.testing.assert_array_equal(Problem.build(NET, y).fits_exactly(z), [True, False])


def test_data_of_single_precision_are_exact_to_a_hundred_of_its_units():
    z, y = observations(batch=3)
    y[:2] = y[:2].astype(np.float32)
    y[:, 3] = (y[:, 3] + np.abs(y).max(axis=1) * [1e-5, 2e-5, 1e-5]).astype(np.float32)
    np.testing.assert_array_equal(Problem.build(NET, y).fits_exactly(z), [True, False, False])


@pytest.mark.parametrize(
    ("activation", "entry", "noiseless"),
    [
        ("relu", 0.0, True),
        ("relu", -1e-12, True),  # rounding
        ("relu", -1e-3, False),
        ("sigmoid", 1.0, True),
        ("sigmoid", 1.001, False),
        ("leaky_relu:0.1", 0.0, False),  # any output is possible, so nothing can be seen
        ("identity", 0.0, False),
    ],
)
def test_an_entry_outside_the_range_of_the_output_shows_noise(activation, entry, noiseless):
    network = random_network((3, 8, 20), activation)
    y = np.full((2, 20), 0.5)
    y[1, 4] = entry
    assert Problem.build(network, y).looks_noiseless.tolist() == [activation in ("relu", "sigmoid"), noiseless]
    assert not Problem.build(network, y, noise="gaussian:0.1").looks_noiseless.any()  # noise is there
    seen = np.arange(20) != 4
    assert Problem.build(network, y, operator=seen).looks_noiseless.all() == (activation in ("relu", "sigmoid"))
    mixed = np.eye(20)[::-1].copy()
    mixed[0] = 1.0
    assert not Problem.build(network, y, operator=mixed).looks_noiseless.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(InputError, match=f"computes in {dtype}; use network.to"):
        Problem.build(NET.to(dtype), np.zeros(20))
