"""What every method of the registry promises, and what the package exports."""

from __future__ import annotations

import gc
import inspect
import pkgutil
from itertools import pairwise

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu import Inversion, Status
from unrelu.errors import InputError, OptionError, UnsupportedModelError
from unrelu.methods import METHODS, make
from unrelu.models.network import Network

NETWORKS = {kind: random_network((3, 8, 20), kind, bias=True) for kind in ("relu", "leaky_relu:0.1")}
# Keeps the baselines, whose defaults are up to 10,000 steps, short; and lets "auto" refine its codes to the last digit.
QUICK = {
    "auto": {"max_iterations": 200},
    "gradient_descent": {"max_iterations": 50, "learning_rate": 0.01},
    "adam": {"max_iterations": 50, "restarts": 3},
}
# Steps that suit the network: published defaults are for others, or end before an exact fit.
EXACT = {"gradient_descent": {"learning_rate": 0.02}}

every_method = pytest.mark.parametrize("method", METHODS)
every_network = pytest.mark.parametrize("kind", NETWORKS)


def noisy(network: Network, batch: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = network(rng.standard_normal((batch, network.latent_dim)))
    return x + rng.uniform(-0.02, 0.02, x.shape)


def invert(network: Network, y: np.ndarray, method: str, **options) -> Inversion:
    return unrelu.invert(network, y, method, **(QUICK.get(method, {}) | options))


# --- every method -----------------------------------------------------------------------------------------------------


@every_method
@every_network
def test_one_observation_and_a_batch_have_consistent_results(method, kind):
    network = NETWORKS[kind]
    y = noisy(network)
    batch, one = invert(network, y, method), invert(network, y[0], method)
    assert batch.method == one.method == method
    assert batch.z.shape == (3, 3)
    assert one.z.shape == (3,)
    np.testing.assert_array_equal(batch.reconstruction, network(batch.z))
    np.testing.assert_array_equal(one.reconstruction, network(one.z))
    for name in ("fun", "success", "status", "message", "nit", "seconds", "freedom", "rank", "identifiable"):
        assert getattr(batch, name).shape == (3,)
        assert np.ndim(getattr(one, name)) == 0
    assert all(isinstance(s, Status) for s in batch.status)
    assert (batch.nit > 0).all()
    assert (batch.seconds > 0).all()
    # The first observation of the batch is inverted as it is alone; only "auto" draws other starts, and may then come
    # to rest elsewhere along a kink.
    assert one.fun == pytest.approx(batch.fun[0], rel=1e-4 if method == "auto" else 1e-6)


@every_method
@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_norm_says_what_fun_is(method, norm):
    network = NETWORKS["relu"]
    result = invert(network, noisy(network), method, norm=norm)
    np.testing.assert_allclose(result.fun, result.residual(norm) ** (2 if norm == "l2" else 1), rtol=1e-12)


@pytest.mark.parametrize(("method", "mode"), [("auto", torch.inference_mode), ("adam", torch.no_grad)])
def test_what_pytorch_is_told_not_to_differentiate_does_not_matter(method, mode):
    network = NETWORKS["relu"]
    y = noisy(network)
    plain = unrelu.invert(network, y, method, **QUICK.get(method, {}))
    with mode():
        found = unrelu.invert(network, y, method, **QUICK.get(method, {}))
    np.testing.assert_array_equal(found.z, plain.z)


@every_method
@pytest.mark.parametrize("kind", ["relu"])
def test_the_same_seed_gives_the_same_bits(method, kind):
    network = NETWORKS[kind]
    first, second = (invert(network, noisy(network), method, seed=3) for _ in range(2))
    for name in ("z", "reconstruction", "fun", "status", "nit"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@every_method
def test_the_callers_arrays_are_left_alone(method):
    network = NETWORKS["relu"]
    y, z0 = noisy(network), np.ones((3, 3))
    before = y.copy()
    result = invert(network, y, method, z0=z0)
    np.testing.assert_array_equal(y, before)
    np.testing.assert_array_equal(z0, np.ones((3, 3)))
    residual = result.residual()
    y[:] = 9
    np.testing.assert_array_equal(result.residual(), residual)


@every_method
def test_exact_observations_of_a_wide_network_are_fitted(method):
    network = random_network((3, 30, 120))
    rng = np.random.default_rng(4)
    z = rng.standard_normal((2, 3))
    # One descent from anywhere may end in a local minimum, as 47 of 400 do here; near the code it must not.
    z0 = z + 0.1 * rng.standard_normal((2, 3)) if method in ("lm", "gradient_descent") else None
    result = unrelu.invert(network, network(z), method, z0=z0, **EXACT.get(method, {}))
    np.testing.assert_allclose(result.z, z, rtol=1e-6, atol=1e-6)
    assert set(result.status) == {Status.EXACT_FIT}
    assert result.success.all()
    assert (result.freedom == 0).all()


@every_method
def test_observations_with_every_neuron_off_are_fitted_by_a_set_of_codes(method):
    """Biases far below zero keep all neurons off near z = 0, so nothing is known but inequalities."""
    rng = np.random.default_rng(0)
    weights, biases = [rng.standard_normal((8, 3)), rng.standard_normal((20, 8))], [np.full(8, -9.0), np.full(20, -1.0)]
    network = unrelu.from_arrays(weights, biases)
    result = unrelu.invert(network, network(np.zeros((2, 3))), method)
    assert set(result.status) == {Status.NOT_UNIQUE}
    assert result.freedom.tolist() == [3, 3]


@every_method
def test_a_callback_sees_the_progress_and_may_stop(method):
    network = NETWORKS["relu"]
    seen = []

    def stop(progress):
        seen.append(progress)
        progress.z[:] = 9  # a copy: this changes nothing
        return True

    result = invert(network, noisy(network), method, callback=stop)
    assert len(seen) == 1
    assert seen[0].method == method
    assert 0 <= seen[0].done <= seen[0].total == 3
    assert seen[0].z.shape == (3, 3)
    assert result.status[-1] is Status.STOPPED
    assert not (result.z == 9).any()


@every_method
def test_a_callback_that_does_not_stop_changes_nothing(method):
    network = NETWORKS["relu"]
    seen = []
    watched = invert(network, noisy(network), method, callback=seen.append)
    assert seen
    assert all(earlier.done <= later.done for earlier, later in pairwise(seen))
    np.testing.assert_array_equal(watched.z, invert(network, noisy(network), method).z)


@pytest.mark.parametrize("method", ["auto", "lm", "linf", "adam"])
def test_errors_of_a_callback_come_through(method):
    network = NETWORKS["relu"]
    with pytest.raises(ZeroDivisionError):
        invert(network, noisy(network), method, callback=lambda progress: 1 / 0)


@every_method
def test_no_time_at_all_ends_with_the_status_time_limit(method):
    network = NETWORKS["relu"]
    result = invert(network, noisy(network), method, time_limit=1e-9)
    assert set(result.status) == {Status.TIME_LIMIT}
    assert np.isfinite(result.z).all()  # where a search would start
    assert not result.success.any()


@every_method
def test_unknown_options_are_refused_with_the_known_ones(method):
    known = ", ".join(METHODS[method].defaults())
    with pytest.raises(OptionError, match=f"method '{method}' has no option 'speed'; it takes {known}"):
        make(method, {"speed": 1})


@pytest.mark.parametrize(("method", "option"), [(m, o) for m, entry in METHODS.items() for o in entry.defaults()])
def test_options_take_values_of_their_type(method, option):
    default = METHODS[method].defaults()[option]
    make(method, {option: default})
    numeric = not isinstance(default, str)
    yes_or_no = isinstance(default, bool)
    for wrong in ([1], b"1", 1 if yes_or_no else True, "much" if numeric else 1.5):
        with pytest.raises(OptionError, match=rf"option {option}=.* of method '{method}' must be (a|True or False)"):
            make(method, {option: wrong})
    if isinstance(default, int) and not yes_or_no:
        make(method, {option: np.int64(default)})
        with pytest.raises(OptionError, match="must be a whole number"):
            make(method, {option: 1.5})
    if isinstance(default, float):
        make(method, {option: np.float32(1.5 if option == "alpha" else 0.5)})


@pytest.mark.parametrize(("method", "option"), [(m, o) for m, entry in METHODS.items() for o in entry.defaults()])
def test_options_without_sense_are_refused(method, option):
    wrong = "unheard-of" if isinstance(METHODS[method].defaults()[option], str) else -1
    with pytest.raises(OptionError, match=rf"{option}={wrong!r}"):
        make(method, {option: wrong})


@every_method
def test_a_method_given_as_an_object_with_its_options_is_the_one_of_that_name(method):
    network = NETWORKS["relu"]
    y, entry = noisy(network), METHODS[method]
    by_name = invert(network, y, method, noise="gaussian:0.1")
    built = entry.options(**QUICK.get(method, {}))
    by_object = unrelu.invert(network, y, built, noise=unrelu.Gaussian(0.1))
    assert by_object.method == by_name.method
    np.testing.assert_array_equal(by_object.z, by_name.z)
    assert list(by_object.status) == list(by_name.status)
    with pytest.raises(OptionError, match="were given with a callable method"):
        unrelu.invert(network, y, built, rounds=3)


@every_method
def test_a_negative_slope_is_inverted_jointly_or_refused_with_a_way_out(method):
    slopes = np.linspace(-0.5, 0.5, 8)
    parts = random_network((3, 8, 20)).layers
    network = Network.chain(
        [*parts[0].affine.steps, unrelu.models.network.Activation("prelu", slopes), *parts[1].affine.steps], (3,)
    )
    if METHODS[method].layerwise:
        with pytest.raises(
            UnsupportedModelError, match=r"layer 1 has a PReLU with a negative slope \(-0.5\).*method='lm'"
        ):
            invert(network, np.ones(20), method)
    else:
        assert np.isfinite(invert(network, np.ones(20), method).z).all()


# --- methods of the user ----------------------------------------------------------------------------------------------


def zeros(problem):
    return Inversion.of(problem, np.zeros((problem.size, problem.network.latent_dim)), method="zeros")


def test_a_callable_is_a_method():
    network = NETWORKS["relu"]
    y = noisy(network)
    result = unrelu.invert(network, y, zeros, norm="linf")
    assert result.method == "zeros"
    np.testing.assert_allclose(result.fun, np.abs(y - network(np.zeros(3))).max(axis=1))
    assert unrelu.invert(network, y[0], zeros).z.shape == (3,)


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        (lambda problem: problem.y, {}, OptionError,
         r"returned a ndarray; end it with Inversion.of\(problem, z, ...\)"),
        (lambda problem: unrelu.invert(problem.network, problem.y, "lm"), {}, OptionError,
         r"returned the result of another problem; end it with Inversion.of\(problem, z, ...\)"),
        (lambda problem: Inversion.of(problem, [1.0], method="m"), {}, InputError,
         r"z has shape \(1,\); a method returns"),
        (zeros, {"alpha": 2}, OptionError, "options alpha were given with a callable method"),
        ("linfty", {}, OptionError, "method 'linfty' is unknown; use one of auto, exact, linf, .* or a callable"),
        (None, {}, OptionError, "method None is unknown"),
        (["lm"], {}, OptionError, r"method \['lm'\] is unknown"),
    ],
)  # fmt: skip
def test_what_is_not_a_method_is_refused(method, options, error, message):
    with pytest.raises(error, match=message):
        unrelu.invert(NETWORKS["relu"], np.ones(20), method, **options)


@pytest.mark.parametrize(("method", "norm"), [*((name, None) for name in METHODS), ("auto", "l1")])
def test_inversions_are_let_go_at_once(method, norm):
    """Reference cycles would keep their arrays until the collector comes by: in long runs, hundreds of megabytes."""
    network = NETWORKS["relu"]
    y = network(np.random.default_rng(3).standard_normal((4, network.latent_dim)))

    def run():
        unrelu.invert(network, y, method, norm=norm, callback=lambda progress: False, **QUICK.get(method, {}))

    run()
    gc.collect()
    gc.freeze()  # what was there before may be let go meanwhile: a figure of another test, by a thread
    gc.disable()
    try:
        run()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(thing).__name__ for thing in gc.garbage]
    finally:
        gc.unfreeze()
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


# --- the package ------------------------------------------------------------------------------------------------------


def test_all_is_what_can_be_imported():
    assert len(unrelu.__all__) == len(set(unrelu.__all__)) > 30
    for name in unrelu.__all__:
        assert getattr(unrelu, name) is not None
    # What needs an optional package is not in __all__, or `from unrelu import *` would need it too.
    assert set(dir(unrelu)) - set(unrelu.__all__) == {"LatentInverter", "adapters", "from_jax"}
    with pytest.raises(AttributeError, match="No unrelu attribute decode"):
        unrelu.decode  # noqa: B018


MODULES = [info.name for info in pkgutil.iter_modules(unrelu.__path__)]


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_a_summary_and_documented_options(name):
    entry = METHODS[name]
    assert len(entry.summary.split()) > 3
    for option in entry.defaults():
        assert f"{option}: " in inspect.getdoc(entry.options)


def test_errors_are_caught_by_their_builtin_bases():
    with pytest.raises(ValueError, match="network ends in"):
        unrelu.invert(NETWORKS["relu"], np.ones(19))
    with pytest.raises(TypeError, match="has no option"):
        unrelu.invert(NETWORKS["relu"], np.ones(20), speed=1)
    tree = {name: error for name, error in vars(unrelu.errors).items() if inspect.isclass(error)}
    assert len(tree) > 5
    for name, error in tree.items():
        assert issubclass(error, unrelu.errors.UnreluError | UserWarning)
        assert name in unrelu.errors.__doc__
