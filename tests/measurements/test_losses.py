"""The Huber loss and losses of one's own, as objectives of every method by gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares, minimize
from torch import nn

import unrelu
from tests.support import image_network, random_network
from unrelu.errors import InputError, OptionError, UnsupportedModelError
from unrelu.measurements.objectives import Huber, OwnLoss
from unrelu.problem import Problem
from unrelu.result import Status

NET = random_network((5, 30, 120), seed=1)
DELTA = 0.15
GRADIENTS = ("auto", "lm", "adam", "gradient_descent")


def data(network=NET, size=3, outliers=0.1, seed=0):
    """Codes and observations with noise of 0.1, of which some entries are off by 5."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((size, network.latent_dim))
    y = network(z).reshape(size, -1)
    y = y + 0.1 * rng.standard_normal(y.shape) + 5 * (rng.random(y.shape) < outliers) * rng.standard_normal(y.shape)
    return z, y.reshape(size, *network.output_shape)


def charbonnier(x, y):
    return ((x - y).square() + 0.01).sqrt().flatten(1).sum(1) - 0.1 * x[0].numel()


def of_differences(x, y):
    """A loss of neighbouring entries, as perceptual losses are."""
    return (x.diff(dim=-1) - y.diff(dim=-1)).square().flatten(1).mean(1) + 0.1 * (x - y).square().flatten(1).mean(1)


def value(loss, network, z, y):
    return float(loss(torch.tensor(network(z))[None], torch.tensor(y)[None])[0])


# --- the Huber loss ---------------------------------------------------------------------------------------------------


def test_it_is_twice_what_scipy_and_torch_say():
    r = np.random.default_rng(0).standard_normal((4, 30))
    y, mean = torch.zeros(4, 30, dtype=torch.float64), torch.tensor(r)
    found = Huber(DELTA).total(y, mean, torch.ones_like(y)).numpy()
    for residual, total in zip(r, found, strict=True):
        scipy = least_squares(lambda _, fixed=residual: fixed, [0.0], loss="huber", f_scale=DELTA, max_nfev=1).cost
        torch_ = nn.HuberLoss(delta=DELTA, reduction="sum")(torch.tensor(residual), y[0])
        np.testing.assert_allclose([2 * scipy, 2 * float(torch_)], total, rtol=1e-12)


@pytest.mark.parametrize(
    "loss", [Huber(DELTA), OwnLoss.read(charbonnier, *torch.rand(2, 2, 30).double(), (30,))], ids=str
)
def test_half_the_derivative_and_the_weight_of_squares(loss):
    y, mean = torch.rand(2, 3, 30, dtype=torch.float64)
    r, weight = loss.scoring(y, mean)
    leaf = mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.total(y, leaf, torch.ones_like(y)).sum(), leaf)
    np.testing.assert_allclose(r, gradient / 2, rtol=1e-12)
    assert (weight > 0).all()


def test_the_loss_of_squares_as_a_function_has_the_weight_of_squares():
    y, mean = torch.rand(2, 2, 30, dtype=torch.float64)
    loss = OwnLoss.read(lambda x, y: (x - y).square().sum(1), y, mean, (30,))
    r, weight = loss.scoring(y, mean)
    np.testing.assert_allclose(r, mean - y, rtol=1e-12)
    np.testing.assert_allclose(weight, 1, rtol=1e-12)


@pytest.mark.parametrize("method", ["auto", "lm"])
def test_the_best_code_is_that_of_scipy(method):
    z, y = data()
    result = unrelu.invert(NET, y, method, norm=f"huber:{DELTA}", **({"z0": z} if method == "lm" else {}))
    assert result.norm == "huber"
    for truth, observed, f in zip(z, y, result.fun, strict=True):
        best = least_squares(lambda c: NET(c) - observed, truth, loss="huber", f_scale=DELTA, xtol=1e-12)  # noqa: B023
        # Kinks part optima that are 1e-4 of each other, and SciPy's is not always the lowest.
        assert f <= (1 + (1e-6 if method == "lm" else 1e-3)) * 2 * best.cost


def test_outliers_move_the_code_less_than_in_l2():
    z, y = data()
    error = {norm: np.linalg.norm(unrelu.invert(NET, y, norm=norm).z - z) for norm in ("huber:0.15", "l2")}
    assert error["huber:0.15"] < 0.3 * error["l2"]


def test_the_threshold_follows_from_the_noise():
    z, y = data(outliers=0.0)
    stated = unrelu.invert(NET, y, "lm", norm="huber", noise="gaussian:0.1", z0=z)
    given = unrelu.invert(NET, y, "lm", norm="huber:0.1345", z0=z)
    np.testing.assert_allclose(stated.z, given.z, rtol=1e-9, atol=1e-9)
    assert stated.success.all(), "the p-value is that of the stated noise"
    assert np.isnan(given.p_value).all()
    r = np.abs(y - NET(stated.z)) / 0.1
    chi = np.where(r <= 1.345, r**2, 1.345 * (2 * r - 1.345)).sum(axis=1)
    whitened = unrelu.invert(
        NET, y, "lm", norm="huber", noise=unrelu.Gaussian(np.r_[0.1, np.full(119, 0.1000001)]), z0=z
    )
    np.testing.assert_allclose(whitened.fun, chi, rtol=1e-4)


def test_units_do_not_matter():
    z, y = data(outliers=0.05)
    small = unrelu.from_arrays([layer.matrix() * (1e-6 if layer is NET.layers[-1] else 1) for layer in NET.layers])
    one = unrelu.invert(NET, y, "lm", norm="huber:0.15", z0=z)
    other = unrelu.invert(small, 1e-6 * y, "lm", norm="huber:0.15e-6", z0=z)
    np.testing.assert_allclose(other.fun, 1e-12 * one.fun, rtol=1e-6)


# --- losses of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [charbonnier, of_differences])
@pytest.mark.parametrize("network", [NET, image_network(seed=2)], ids=["dense", "pictures"])
def test_its_best_code_is_a_local_optimum_of_the_function(network, loss):
    _, y = data(network, size=2, outliers=0.0)
    result = unrelu.invert(network, y, loss=loss)
    assert result.norm == "loss"
    assert (result.confidence < 0.8).all(), "nothing is learned, so agreement is not trusted"
    alone = unrelu.invert(network, y[0], loss=loss)
    assert alone.fun == pytest.approx(result.fun[0], rel=1e-4)
    assert np.isnan(result.p_value).all()
    for z, observed, f in zip(result.z, y, result.fun, strict=True):
        assert f == pytest.approx(value(loss, network, z, observed), rel=1e-9)
        further = minimize(lambda c: value(loss, network, c.reshape(z.shape), observed), z.ravel(), method="BFGS")  # noqa: B023
        assert further.fun >= (1 - 2e-5) * f


@pytest.mark.parametrize("method", GRADIENTS)
def test_methods_by_gradients_lower_it(method):
    z, y = data(outliers=0.0)
    options = {"max_iterations": 200} if method in ("adam", "gradient_descent") else {}
    far = z + 0.3
    result = unrelu.invert(NET, y, method, loss=charbonnier, z0=far, **options)
    before = [value(charbonnier, NET, *pair) for pair in zip(far, y, strict=True)]
    assert result.norm == "loss"
    assert (result.fun < before).all()


def test_a_module_of_single_precision_is_a_loss():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten())

        def forward(self, x, y):
            return (self.layers(x) - self.layers(y)).square().mean(1)

    network, features = image_network(seed=2), Features().eval()
    z, y = data(network, size=2, outliers=0.0)
    result = unrelu.invert(network, y, "lm", loss=features, z0=z.reshape(-1, *network.latent_shape))
    with torch.no_grad():
        due = features(torch.tensor(result.reconstruction).float(), torch.tensor(y).float())
    np.testing.assert_allclose(result.fun, due, rtol=1e-4)


def test_exact_data_are_an_exact_fit_and_the_loss_of_a_hidden_entry_is_that_of_0():
    z, _ = data()
    assert unrelu.invert(NET, NET(z), loss=charbonnier).status.tolist() == [Status.EXACT_FIT] * 3
    seen = np.arange(120) % 2
    y = np.where(seen, NET(z), np.nan)
    hidden = unrelu.invert(NET, y, "lm", operator=seen, loss=of_differences, z0=z)
    due = [
        value(of_differences, lambda c: NET(c) * seen, c, np.nan_to_num(o)) for c, o in zip(hidden.z, y, strict=True)
    ]
    np.testing.assert_allclose(hidden.fun, due, atol=1e-12)


def test_units_are_the_users():
    z, y = data(outliers=0.0)
    small = unrelu.from_arrays([layer.matrix() * (1e-6 if layer is NET.layers[-1] else 1) for layer in NET.layers])
    result = unrelu.invert(small, 1e-6 * y, "lm", loss=lambda x, y: ((x - y) * 1e6).square().sum(1), z0=z, prior=0.1)
    due = unrelu.invert(NET, y, "lm", z0=z, prior=0.1)
    np.testing.assert_allclose(result.fun, due.fun, rtol=1e-9)


def test_stated_noise_judges_the_residual():
    z, y = data(outliers=0.0)
    result = unrelu.invert(NET, y, "lm", loss=charbonnier, noise="gaussian:0.1", z0=z)

    def own(problem):
        return unrelu.Inversion.of(problem, result.z, method="own")

    np.testing.assert_allclose(result.p_value, unrelu.invert(NET, y, own, noise="gaussian:0.1").p_value, rtol=1e-9)


# --- files ------------------------------------------------------------------------------------------------------------


def test_results_are_saved_and_verified(tmp_path):
    z, y = data()
    huber = unrelu.invert(NET, y, "lm", norm="huber:0.15", z0=z)
    huber.save(tmp_path / "huber.npz")
    again = unrelu.load_result(tmp_path / "huber.npz", NET)
    assert (again.norm, again.problem.stated_loss) == ("huber", Huber(0.15))
    own = unrelu.invert(NET, y, "lm", loss=charbonnier, z0=z)
    own.save(tmp_path / "own.npz")
    again = unrelu.load_result(tmp_path / "own.npz", NET)
    np.testing.assert_array_equal(again.fun, own.fun)
    assert again.norm == "loss"


def test_a_run_takes_the_huber_loss(tmp_path):
    _, y = data()
    run = unrelu.run(NET, y, tmp_path / "out", "lm", norm="huber:0.15", workers=1)
    assert run.manifest["norm"] == "huber:0.15"
    assert run.manifest["about"]["objective"].startswith("Huber loss (huber:0.15)")
    assert "residual (l2)" in str(run)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "error", "message"),
    [
        ({"norm": "huber"}, InputError, "norm='huber': D of 'huber:D', .*; without D it is 1.345 standard"),
        ({"norm": "huber", "noise": "outliers:0.1"}, InputError, "of noise='gaussian:S', which must be stated then"),
        ({"norm": "huber:-1"}, InputError, "norm='huber:-1': D of 'huber:D', .* a number above 0"),
        ({"norm": "huber:x"}, InputError, "norm='huber:x': D of 'huber:D'"),
        ({"norm": "hubert"}, InputError, "norm='hubert' is unknown; .*; did you mean 'huber'"),
        ({"norm": "huber:1", "noise": "poisson"}, InputError, "by their deviance; leave norm= out"),
        ({"loss": charbonnier, "noise": "poisson"}, InputError, "by their deviance; leave loss= out"),
        ({"loss": charbonnier, "norm": "l1"}, InputError, "norm='l1': loss= is minimised in its place"),
        ({"loss": "lpips"}, OptionError, "loss='lpips' is not callable; pass a function of"),
        ({"loss": lambda x, y: (x - y).square()}, InputError, r"loss= gives numbers of shape \(120,\) for each"),
        ({"loss": lambda x, y: (x - y).square().mean()}, InputError, "loss= cannot be minimised: .*the batch axis"),
        ({"loss": lambda x, y: -(x - y).square().sum(1)}, InputError, "it must be at least 0: add a constant"),
        ({"loss": lambda x, y: (x - y).round().square().sum(1)}, InputError, "its derivative is zero|is off by"),
        ({"loss": charbonnier, "noise": unrelu.Gaussian(np.linspace(1, 2, 120))}, InputError, "weighs their entries"),
    ],
)  # fmt: skip
def test_what_cannot_be_minimised_is_refused(stated, error, message):
    with pytest.raises(error, match=message):
        Problem.build(NET, np.round(data()[1].clip(0)), **stated)


@pytest.mark.parametrize("method", ["linf", "exact"])
@pytest.mark.parametrize("stated", [{"norm": "huber:0.1"}, {"loss": charbonnier}], ids=["huber", "loss"])
def test_methods_that_do_not_minimise_it_say_so(method, stated):
    said = "loss=" if "loss" in stated else "norm='huber'"
    with pytest.raises(UnsupportedModelError, match=f"method='{method}' does not minimise {said}: use 'auto', 'lm'"):
        unrelu.invert(NET, data()[1], method, **stated)
