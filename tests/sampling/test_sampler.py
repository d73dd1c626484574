"""The sampler: exact posteriors on small generators, modes, evidence, bounds, counts, limits and reproducibility."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm, truncnorm

import unrelu
from tests.sampling.known_posteriors import tents
from tests.support import random_network
from unrelu import Status
from unrelu.errors import InputError, OptionError
from unrelu.models.activations import Activation
from unrelu.runtime.streams import stream
from unrelu.sampling.convergence import error_of_mean
from unrelu.thresholds import SAME_OPTIMUM

LINE = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")  # G(z) = (2 z, z)


def quiet(call):
    """The value of ``call``, whose posterior may not have mixed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def grid_posterior(net, y, sigma, low=-6.0, high=6.0, count=6001):
    """The posterior of a code of one coordinate under N(0, 1) on a grid, and the logarithm of the evidence."""
    z = np.linspace(low, high, count)
    logs = -0.5 * np.square((net(z[:, None]) - y) / sigma).sum(axis=1) + norm.logpdf(z)
    step = z[1] - z[0]
    return z, np.exp(logs - logsumexp(logs)) / step, float(logsumexp(logs) + np.log(step))


def six_errors(p):
    """Six standard errors of the covariances of draws, in units of their deviations, (k, k)."""
    u = (p.z - p.mean) / p.std
    products = u[..., :, None] * u[..., None, :]
    return 6 * error_of_mean(products.reshape(*u.shape[:2], -1)).reshape(products.shape[2:])


def linear_posterior(matrix, y, sigma, mean, std):
    """The mean and covariance of z given y = W z + e."""
    precision = matrix.T @ matrix / sigma**2 + np.diag(1 / std**2)
    covariance = np.linalg.inv(precision)
    return covariance @ (matrix.T @ y / sigma**2 + mean / std**2), covariance


# --- exact posteriors -------------------------------------------------------------------------------------------------


def test_a_linear_generator_has_the_posterior_of_the_normal_equations():
    rng = stream("test linear posterior")
    matrix, y = rng.standard_normal((6, 3)), rng.standard_normal(6)
    mean, std = np.array([1.0, -1.0, 0.0]), np.array([0.5, 2.0, 1.0])
    net = unrelu.from_arrays([matrix], activation="identity")
    p = unrelu.posterior(net, y, noise="gaussian:0.7", prior=unrelu.Normal(mean, std))
    expected, covariance = linear_posterior(matrix, y, 0.7, mean, std)
    deviations = np.sqrt(np.diag(covariance))
    assert p.status is Status.MIXED
    assert len(p.modes) == 1
    np.testing.assert_allclose((p.mean - expected) / deviations, 0.0, atol=6 / np.sqrt(p.ess.min()))
    assert (np.abs(p.covariance - covariance) / np.outer(deviations, deviations) < six_errors(p)).all()
    evidence = _log_normal(y, matrix @ mean, matrix @ np.diag(std**2) @ matrix.T + 0.49 * np.eye(6))
    assert abs(p.log_evidence - (evidence + 3 * np.log(2 * np.pi * 0.49))) < 0.05


def _log_normal(x, mean, covariance):
    r = np.linalg.solve(np.linalg.cholesky(covariance), x - mean)
    return -0.5 * r @ r - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_draws_of_one_coordinate_have_the_density_on_a_grid(activation):
    net = random_network((1, 8, 6), seed=3, activation=activation)
    rng = stream("test grid posterior", activation)
    y = net(rng.standard_normal(1)) + 0.3 * rng.standard_normal(6)
    p = unrelu.posterior(net, y, noise="gaussian:0.3")
    z, density, evidence = grid_posterior(net, y, 0.3)
    cumulative = np.cumsum(density) * (z[1] - z[0])
    drawn = np.sort(p.z.ravel())
    distance = np.abs(np.interp(drawn, z, cumulative) - (np.arange(len(drawn)) + 0.5) / len(drawn)).max()
    assert p.status is Status.MIXED
    assert distance < 2.2 / np.sqrt(p.ess.min())  # Kolmogorov's distance: below in all but 1 of 10,000
    assert abs(p.log_evidence - evidence) < 0.05


def test_modes_are_found_again_and_again_without_crowding_out_others():
    p = unrelu.posterior(tents(), np.array([0.3]), noise="gaussian:0.02")
    z, density, evidence = grid_posterior(tents(), np.array([0.3]), 0.02, count=400_001)
    lows = np.flatnonzero((density[1:-1] < density[:-2]) & (density[1:-1] <= density[2:])) + 1
    lows = lows[np.abs(z[lows]) < 2]  # between the modes
    weights = np.add.reduceat(density, np.append(0, lows)) * (z[1] - z[0])
    drawn = np.bincount(np.searchsorted(z[lows], p.z.ravel()), minlength=len(weights)) / p.z.size
    assert p.status is Status.MIXED
    assert len(weights) == 32
    assert weights[drawn == 0].sum() <= 0.02  # what MIXED says; the lightest have a weight of .8%
    # Draws of few modes are as many more as others were overlooked. Five binomial standard errors: 1 in a million each.
    error = np.sqrt(weights * (1 - weights) / p.ess.min())
    assert (np.abs(drawn - weights)[drawn > 0] < 5 * error[drawn > 0] + 0.02 * weights[drawn > 0]).all()
    assert abs(p.log_evidence - evidence) < 3 * p.log_evidence_error


def test_an_opaque_generator_has_the_same_posterior():
    net = random_network((2, 6, 5), seed=4)
    weights = [torch.tensor(layer.matrix()) for layer in net.layers]
    biases = [torch.tensor(layer.bias()) for layer in net.layers]

    def forward(z):
        return torch.sin(torch.relu(torch.relu(z @ weights[0].T + biases[0]) @ weights[1].T + biases[1]))

    opaque = unrelu.from_torch(forward, latent_shape=(2,))
    rng = stream("test opaque posterior")
    y = opaque(rng.standard_normal(2)) + 0.4 * rng.standard_normal(5)
    p = unrelu.posterior(opaque, y, noise="gaussian:0.4", draws=500)
    axis = np.linspace(-5, 5, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    logs = -0.5 * np.square((opaque(grid) - y) / 0.4).sum(axis=1) - 0.5 * np.square(grid).sum(axis=1)
    weights = np.exp(logs - logsumexp(logs))
    mean = weights @ grid
    deviation = np.sqrt(weights @ np.square(grid - mean))
    assert p.status is Status.MIXED
    np.testing.assert_allclose((p.mean - mean) / deviation, 0.0, atol=6 / np.sqrt(p.ess.min()))
    assert (np.abs(np.square(p.std / deviation) - 1) < np.diag(six_errors(p))).all()
    assert abs(p.log_evidence - (logsumexp(logs) + 2 * np.log(axis[1] - axis[0]) - np.log(2 * np.pi))) < 0.05


def folded(j, k=3):
    """H(|z_1|, ..., |z_j|, the rest), whose posterior has 2^j modes of equal weight."""
    rng = stream("test folded", j)
    first = np.concatenate([np.eye(k), -np.eye(k)[:j]])  # relu(z) + relu(-z) = |z|
    head = rng.standard_normal((8, k))
    second = np.concatenate([head, head[:, :j]], axis=1)
    slope = np.ones(k + j)  # the rest stays as it is
    slope[:j], slope[k:] = 0.0, 0.0
    return unrelu.from_arrays([first, second], activation=[Activation("prelu", slope), "identity"])


@pytest.mark.parametrize("j", [1, 2, 3])
def test_all_modes_of_equal_weight_are_found(j):
    net = folded(j)
    truth = np.array([1.2, -0.9, 1.5])
    y = net(truth) + 0.1 * stream("test folded noise", j).standard_normal(8)
    p = unrelu.posterior(net, y, noise="gaussian:0.1")
    assert p.status is Status.MIXED
    assert len(p.modes) == 2**j
    np.testing.assert_allclose([mode.weight for mode in p.modes], 2.0**-j, atol=0.03)
    signs = {tuple(np.sign(mode.z[:j])) for mode in p.modes}
    assert len(signs) == 2**j


def test_chains_that_agree_without_most_of_the_modes_have_not_mixed():
    # One tent for each of ten coordinates: 1,024 modes, of which descents find some hundreds.
    k, eye = 10, np.eye(10)
    first = np.repeat(eye, 2, axis=0)
    tent = np.kron(eye, np.array([[0.25, -0.25], [0.25, -0.25]]))
    last = np.kron(eye, np.array([[2.0, -4.0]]))
    biases = [np.tile([2.0, -2.0], k), np.tile([0.0, -0.5], k), np.zeros(k)]
    net = unrelu.from_arrays([first, tent, last], biases)
    p = unrelu.posterior(net, np.full(k, 0.3), noise="gaussian:0.02", draws=100)
    assert p.status is Status.NOT_MIXED
    assert p.overlooked > 0.02 or p.rhat.max() > 1.01
    assert np.isnan(p.log_evidence)


def test_a_misfit_is_said_first_and_has_the_p_value_of_its_best_code():
    net = random_network((2, 8, 12), seed=6)
    y = net(np.array([0.4, -0.3])) + 0.1 * stream("test misfit").standard_normal(12)
    p = unrelu.posterior(net, np.stack([y, y - 5.0]), noise="gaussian:0.1", draws=200)
    r = unrelu.invert(net, np.stack([y, y - 5.0]), noise="gaussian:0.1", prior=unrelu.Normal())
    # Codes of one optimum differ by at most 1% of chi-square, and d log p / d chi-square is at most a half.
    assert abs(np.log(p.p_value[0] / r.p_value[0])) <= 0.5 * SAME_OPTIMUM * r.fun[0] / 0.1**2
    assert p.p_value[0] >= 0.01 > p.p_value[1]
    assert p[1].status is Status.MIXED
    assert "draws: MISFIT, no code" in str(p[1]).splitlines()[0]
    assert "1 misfit, which no code" in str(p).splitlines()[0]
    assert "MISFIT" not in str(p[0])


def test_an_observation_too_far_away_for_double_precision_is_an_error():
    p = unrelu.posterior(LINE, [1.0, 9.0], noise="gaussian:1e-9")
    assert p.status is Status.ERROR
    assert "out of the generator's range" in p.message


# --- priors, bounds and noise -----------------------------------------------------------------------------------------


def test_codes_between_bounds_are_uniform_before_the_data():
    p = unrelu.posterior(LINE, [1.0, 0.5], noise="gaussian:0.5", bounds=(0.3, 0.7))
    # N(.5, .05) on [.3, .7]
    truncated = truncnorm.stats(*(np.array([-0.2, 0.2]) / np.sqrt(0.05)), 0.5, np.sqrt(0.05))
    truncated = truncated[0], np.sqrt(truncated[1])
    assert p.status is Status.MIXED
    assert p.z.min() >= 0.3
    assert p.z.max() <= 0.7
    assert abs(p.mean[0] - truncated[0]) < 6 * p.std[0] / np.sqrt(p.ess[0])
    assert abs((p.std[0] / truncated[1]) ** 2 - 1) < six_errors(p)[0, 0]


def test_counts_have_the_posterior_of_their_likelihood():
    net = unrelu.from_arrays([np.array([[3.0], [1.0], [2.0]])], biases=[np.array([4.0, 6.0, 5.0])])
    y = np.array([9.0, 5.0, 8.0])
    p = unrelu.posterior(net, y, noise="poisson")
    z = np.linspace(-6, 6, 6001)
    means = np.maximum(net(z[:, None]), 1e-3)
    logs = (y * np.log(means) - means).sum(axis=1) + norm.logpdf(z)
    weights = np.exp(logs - logsumexp(logs))
    assert p.status is Status.MIXED
    deviation = np.sqrt(weights @ np.square(z - weights @ z))
    assert abs(p.mean[0] - weights @ z) < 6 * deviation / np.sqrt(p.ess[0])
    assert abs((p.std[0] / deviation) ** 2 - 1) < six_errors(p)[0, 0]


# --- reproducibility and limits ---------------------------------------------------------------------------------------


def test_draws_do_not_depend_on_the_batch():
    """Up to rounding: products of a batch and of one observation may be summed in another order."""
    net = random_network((2, 8, 5), seed=6)
    y = net(stream("test batch").standard_normal((3, 2))) + 0.1
    sizes = np.array([[0.3, 0.2, 0.3, 0.4, 0.3]] * 3) * np.array([[1.0], [1.1], [1.2]])
    for noise, own in (("gaussian:0.3", "gaussian:0.3"), (unrelu.Gaussian(sizes), unrelu.Gaussian(sizes[1]))):
        batch = quiet(lambda noise=noise: unrelu.posterior(net, y, noise=noise, draws=40))
        alone = quiet(lambda own=own: unrelu.posterior(net, y[1], noise=own, draws=40))
        np.testing.assert_allclose(batch.z[1], alone.z, rtol=0, atol=1e-6)  # the mode is found to about 1e-8
        assert (batch.z[0] != batch.z[1]).all()


def test_the_seed_decides_the_draws():
    first, again, other = (
        quiet(lambda seed=seed: unrelu.posterior(LINE, [1.0, 0.5], noise="gaussian:0.5", draws=20, seed=seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.z, again.z)
    assert (first.z != other.z).any()


def test_a_stop_keeps_the_draws_so_far():
    calls = []

    def stop(progress):
        calls.append(progress.method)
        return len(calls) > 300

    p = unrelu.posterior(LINE, [[1.0, 0.5], [0.2, 0.1]], noise="gaussian:0.5", callback=stop)
    assert p[0].status is Status.STOPPED
    assert 0 < p[0].z.shape[1] < 1000
    assert np.isfinite(p[0].z).all()
    assert p[1].status is Status.STOPPED
    assert np.isnan(p.z[1]).all()
    assert set(calls) == {"posterior"}


def test_all_of_a_batch_have_a_share_of_the_time():
    net = random_network((4, 30, 20), seed=7)
    y = net(np.ones((3, 4)) * [[0.5], [1.0], [1.5]])
    p = quiet(lambda: unrelu.posterior(net, y, noise="gaussian:0.1", time_limit=1.5, draws=10**6))
    assert [status.name for status in p.status] == 3 * ["TIME_LIMIT"]
    assert min(one.mode.size for one in p.chains) > 0


_INTERRUPTED = """
import numpy as np, unrelu
seen = []
def callback(progress):
    seen.append(progress)
    if len(seen) == 600:
        print("sampling", flush=True)
net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")
p = unrelu.posterior(net, [[1.0, 0.5], [0.2, 0.1]], noise="gaussian:0.5", draws=10**7, callback=callback)
print(p[0].status.name, p[0].z.shape[1] > 100, np.isfinite(p[0].z).all(), p[1].status.name, flush=True)
unrelu.posterior(net, [1.0, 0.5], noise="gaussian:0.5", draws=10**7, callback=lambda seen: SECOND)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for other processes")
def test_ctrl_c_keeps_the_draws_so_far_and_a_second_one_raises():
    command = _INTERRUPTED.replace("SECOND", "[signal.raise_signal(signal.SIGINT) for _ in range(2)]")
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal" + command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(unrelu.__file__).parents[1])},
    )  # fmt: skip
    with process:
        timer = threading.Timer(300, process.kill)  # kernels may have to be compiled first
        timer.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "sampling\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        timer.cancel()
    assert out == "STOPPED True True STOPPED\n", err
    assert "stopping with the draws so far" in err
    assert err.rstrip().endswith("KeyboardInterrupt")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"noise": None}, InputError, "noise=None is not stated"),
        ({"noise": "uniform:0.1"}, InputError, "equally probable"),
        ({"noise": "outliers:0.1"}, InputError, "noise=outliers:0.1"),
        ({"noise": "gaussian:0"}, InputError, "noise"),
        ({"prior": 1.0}, OptionError, "unrelu.Normal"),
        ({"prior": unrelu.Normal(np.zeros(3))}, InputError, r"shape \(3,\)"),
        ({"draws": 0}, OptionError, "draws=0"),
        ({"draws": 10.0}, OptionError, "draws=10.0"),
        ({"chains": 1}, OptionError, "chains=1"),
        ({"seed": -1}, OptionError, "seed=-1"),
        ({"bounds": (30.0, 31.0), "prior": unrelu.Normal()}, InputError, "next to nothing"),
        ({"bounds": (1.0, 0.0)}, InputError, "in this order"),
        ({"y": [1.0, np.nan]}, InputError, "NaN"),
        ({"y": [1.0, 2.0, 3.0]}, InputError, "shape"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    given = {"y": [1.0, 0.5], "noise": "gaussian:0.5"} | arguments
    with pytest.raises(error, match=message):
        unrelu.posterior(LINE, given.pop("y"), **given)
