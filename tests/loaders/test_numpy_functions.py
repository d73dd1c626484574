"""Functions of NumPy as generators: derivatives, searches, executors, and functions that are refused."""

from __future__ import annotations

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

import unrelu
from unrelu.errors import InputError, ModelError, OptionError, UnreluError, UnsupportedModelError

X = np.linspace(0, 15, 101)
BOUNDS: dict[str, tuple[float, float]] = {"amp": (0, 10), "omega": (0.1, 5), "shift": (-1.5, 1.5), "decay": (0, 0.1)}
TRUTH = {"amp": 5.0, "omega": 2.0, "shift": -0.1, "decay": 0.025}


def wave(x: Any, amp: Any, omega: Any, shift: Any, decay: Any) -> Any:
    amp, omega, shift, decay = (np.asarray(each)[..., None] for each in (amp, omega, shift, decay))
    return amp * np.sin(omega * x + shift) * np.exp(-decay * x**2)


FUNCTION = partial(wave, X)


def torch_wave(z: Any) -> Any:
    amp, omega, shift, decay = (each[:, None] for each in z.T)
    return amp * torch.sin(omega * torch.from_numpy(X) + shift) * torch.exp(-decay * torch.from_numpy(X) ** 2)


@pytest.fixture(scope="module")
def network() -> Any:
    return unrelu.from_function(FUNCTION, BOUNDS)


@pytest.mark.parametrize(("jac", "close"), [("2-point", 1e-5), ("3-point", 1e-7)])
def test_derivatives_are_those_of_pytorch(jac: str, close: float) -> None:
    """Inside, and at the bounds, where steps go inwards. Steps of 0.01 s round by eps / (0.01 s); the margin is 30."""
    own, known = unrelu.from_function(FUNCTION, BOUNDS, jac=jac), unrelu.from_torch(torch_wave, bounds=BOUNDS)
    low, high = own.domain.ends
    for z in ((low + high) / 2, low, high, np.where([1, 0, 1, 0], low, high)):
        np.testing.assert_allclose(own(z), known(z), rtol=1e-12, atol=1e-12)
        scale = np.abs(known.jacobian(z)).max(axis=0)
        assert np.abs(own.jacobian(z) - known.jacobian(z)).max(axis=0) == pytest.approx(0, abs=close * scale.max())
    codes = torch.tensor(np.stack([low, (low + high) / 2]), requires_grad=True)
    own.forward(codes).square().sum().backward()
    assert codes.grad is not None
    expected = [2 * known.jacobian(z).T @ known(z) for z in (low, (low + high) / 2)]
    np.testing.assert_allclose(codes.grad, expected, rtol=1e-4, atol=1e-3)


def test_parameters_are_found_to_all_digits(network: Any) -> None:
    r = unrelu.invert(network, FUNCTION(**TRUTH))
    assert r.status is unrelu.Status.EXACT_FIT
    for name, value in TRUTH.items():
        assert r.parameters[name] == pytest.approx(value, rel=1e-7)


def test_noisy_fits_are_those_of_trf(network: Any) -> None:
    y = FUNCTION(**TRUTH) + 0.2 * np.random.default_rng(1).standard_normal(101)
    r = unrelu.invert(network, y, noise="gaussian:0.2")
    low, high = (np.array(ends) for ends in zip(*BOUNDS.values(), strict=True))
    found = least_squares(lambda p: FUNCTION(*p) - y, list(TRUTH.values()), bounds=(low, high), xtol=1e-14, ftol=1e-14)
    assert r.success
    np.testing.assert_allclose(list(r.parameters.values()), found.x, rtol=1e-4)
    assert r.laplace().std.shape == (4,)


def test_restarts_take_at_most_twice_the_evaluations_of_trf() -> None:
    """Those of a search after the first, which draws the samples of the generator; its verdict is counted, too."""
    calls = itertools.count()

    def counted(*values: float, **parameters: float) -> Any:
        next(calls)
        return FUNCTION(*values, **parameters)

    own = unrelu.from_function(counted, BOUNDS)
    y = FUNCTION(**TRUTH) + 0.2 * np.random.default_rng(1).standard_normal(101)
    unrelu.invert(own, y, noise="gaussian:0.2")
    begin = next(calls)
    r = unrelu.invert(own, y, noise="gaussian:0.2", seed=1)
    ours = (next(calls) - begin - 1) / (len(r.restarts[0]) + 1)
    low, high = (np.array(ends) for ends in zip(*BOUNDS.values(), strict=True))
    begin, starts = next(calls), np.random.default_rng(3).uniform(low, high, (20, 4))
    for start in starts:
        least_squares(lambda p: counted(*p) - y, start, bounds=(low, high))
    assert ours < 2 * (next(calls) - begin - 1) / len(starts)


def test_functions_of_batches_and_executors_give_the_same(network: Any) -> None:
    z = network.domain.draw(np.random.default_rng(2), (7,))
    np.testing.assert_allclose(unrelu.from_function(FUNCTION, BOUNDS, batch=True)(z), network(z), rtol=1e-13)
    with ThreadPoolExecutor(2) as executor:
        parallel = unrelu.from_function(FUNCTION, BOUNDS, executor=executor)
        assert np.array_equal(parallel(z), network(z))
        again = pickle.loads(pickle.dumps(parallel))  # without the executor
    assert np.array_equal(again(z), network(z))


def test_outputs_have_any_shape() -> None:
    plane = unrelu.from_function(lambda a, b: np.full((2, 3), a) + b, {"a": (0, 1), "b": (0, np.inf)})
    assert plane([0.5, 2.0]).shape == (2, 3)
    number = unrelu.from_function(lambda a: a**2, {"a": (1, 2)})
    assert number([1.5]).shape == (1,)
    assert unrelu.invert(number, [2.25]).parameters["a"] == pytest.approx(1.5)


def test_posteriors_and_files(network: Any, tmp_path: Any) -> None:
    y = FUNCTION(**TRUTH) + 0.2 * np.random.default_rng(1).standard_normal(101)
    p = unrelu.posterior(network, y, noise="gaussian:0.2", draws=100)
    assert abs(p.mean - list(TRUTH.values())) == pytest.approx(0, abs=6 * p.std.max())
    p.save(tmp_path / "p.npz")
    assert np.array_equal(unrelu.load_posterior(tmp_path / "p.npz", network).z, p.z)


RANDOM = np.random.default_rng(1)
REFUSED: dict[str, tuple[Any, Any, dict[str, Any], type[UnreluError], str]] = {
    "no function": ([1.0], {"a": (0, 1)}, {}, ModelError, "takes a function"),
    "no bounds": (FUNCTION, None, {}, InputError, "bounds="),
    "reversed": (FUNCTION, {"a": (1, 0)}, {}, InputError, "a"),
    "a scheme": (FUNCTION, BOUNDS, {"jac": "cs"}, OptionError, "'2-point' or '3-point'"),
    "a step": (FUNCTION, BOUNDS, {"diff_step": -1.0}, OptionError, "diff_step=-1.0"),
    "seconds": (FUNCTION, BOUNDS, {"seconds": -1.0}, OptionError, "seconds=-1.0"),
    "an executor": (FUNCTION, BOUNDS, {"executor": 3}, OptionError, "executor=3 has no map"),
    "another name": (FUNCTION, {"b": (0, 1)}, {}, UnsupportedModelError, "TypeError: .*unexpected keyword"),
    "NaN at a corner": (lambda a, b: np.array([a, b, np.sin(a) / a if a else np.nan]), {"a": (0, 1), "b": (1, 2)}, {},
                        UnsupportedModelError, "nan at a=0, b="),
    "infinite inside": (lambda a: np.array([np.inf, a]), {"a": (0, 1)}, {}, UnsupportedModelError, "inf at a="),
    "random": (lambda a: a + RANDOM.random(3), {"a": (0, 1)}, {}, UnsupportedModelError, "seed what it draws"),
    "constant": (lambda a: np.ones(3), {"a": (0, 1)}, {}, UnsupportedModelError, "the same for all parameters"),
    "no batch": (lambda a: np.array([np.sum(a)]), {"a": (0, 1)}, {"batch": True}, UnsupportedModelError,
                 r"shape \(1,\) for 10 codes"),
    "mixed batch": (lambda a: a[:, None] - a.mean() * np.ones(3), {"a": (0, 1)}, {"batch": True},
                    UnsupportedModelError, "other numbers in a second call|alone and in a batch"),
    "ragged": (lambda a: np.ones(2 + int(10 * a)), {"a": (0, 1)}, {}, UnsupportedModelError, "raises ValueError"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_functions_that_are_refused(case: str) -> None:
    function, bounds, options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        unrelu.from_function(function, bounds, **options)


def test_an_error_during_a_search_names_the_parameters(network: Any) -> None:
    def fails(amp: float, omega: float, shift: float, decay: float) -> Any:
        if 1.9 < omega < 2.1:
            raise ZeroDivisionError("no such wave")
        return FUNCTION(amp, omega, shift, decay)

    own = unrelu.from_function(fails, BOUNDS)
    with pytest.raises(UnsupportedModelError, match=r"fails raises ZeroDivisionError: no such wave, at amp="):
        own([5.0, 2.0, 0.0, 0.0])
