"""The compiled descents: their sums against PyTorch in double precision, what a descent and perturbations promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unrelu
from tests.support import ACTIVATIONS, compiled, random_network
from unrelu.local_search import descent_kernel as kernel
from unrelu.local_search._compiled_activations import activate
from unrelu.local_search.descent_kernel import DescentArrays, DescentLimits, descend_and_perturb
from unrelu.local_search.packed_observations import PackedObservations
from unrelu.local_search.squared_error import SquaredError
from unrelu.models.activations import Activation
from unrelu.models.network import Network
from unrelu.parameters.latent_bounds import Bounds
from unrelu.problem import Problem

K, N, B = 4, 30, 5
LIMITS = DescentLimits(steps=100, tiny_decrease=1e-6, enough=0.0)
SINGLE = 2.0**-24
# Sums of at most 30 products in each of at most four layers and in J^T J, each off by as many roundings of its terms.
ROUNDING = 5 * 30 * SINGLE


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def prelu_network():
    """Slopes of every kind, one for each neuron of both layers, the output's too."""
    first, last = random_network((K, 12, N), seed=3, bias=True).layers
    slopes = [np.linspace(-0.5, 1.5, n) for n in (12, N)]
    return Network.chain(
        [*first.affine.steps, Activation("prelu", slopes[0]), *last.affine.steps, Activation("prelu", slopes[1])], (K,)
    )


def swish_network():
    """Parameters of every kind, one for each neuron, and a linear end."""
    first, last = random_network((K, 12, N), seed=3, bias=True).layers
    learned = Activation("swish", np.linspace(-1.2, 1.5, 12), steepness=np.linspace(4, -3, 12))
    return Network.chain([*first.affine.steps, learned, *last.affine.steps], (K,))


NETWORKS = {
    "relu": random_network((K, 12, N), seed=1, bias=True),
    "relu, no bias": random_network((K, 12, N), seed=1),
    "one layer": random_network((K, N), seed=2, bias=True),
    "four layers": random_network((K, 10, 20, 12, N), "leaky_relu:0.2", seed=4, bias=True),
    "prelu": prelu_network(),
    "sigmoid": random_network((K, 12, N), "sigmoid", seed=5, bias=True),
    "tanh": random_network((K, 12, N), "tanh", seed=6, bias=True),
    "identity": random_network((K, 12, 20, N), seed=7, bias=True, last="identity"),
    "swish": swish_network(),
    "exp": random_network((K, 12, N), "swish", seed=8, bias=True, last="exp"),
    "scale and offset": unrelu.extend(random_network((2, 12, N), seed=9, bias=True), scale=(0.5, 2), offset=True),
    "template": unrelu.extend(
        random_network((2, 12, N), seed=10, bias=True), lambda x, a: x + a * torch.linspace(-1, 1, N).to(x),
        a=unrelu.Normal(0.1, 0.5), scale=unrelu.Normal(1.0, 0.1),
    ),
}  # fmt: skip
MEASUREMENTS = {
    "whole": None,
    "mask": drawn(N) < 0.3,
    "masks": drawn(B, N) < 0.3,
    "entries": np.eye(N)[[3, 1, 4, 15, 9]],
    "matrix": drawn(12, N),
}
forward, residual, jacobian, normal_equations, reflected = map(
    compiled, (kernel.forward, kernel.residual, kernel._jacobian, kernel._normal_equations, kernel._reflected)
)
every_network = pytest.mark.parametrize("name", NETWORKS)


def noisy(network, kind="whole", level=0.1, count=B, seed=1, **options):
    """A problem of noisy observations, and the codes that they are of."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((count, network.latent_dim))
    x = network(truth) + level * rng.standard_normal((count, network.output_dim))
    operator = MEASUREMENTS[kind]
    y = x @ operator.T if kind in ("entries", "matrix") else x
    return Problem.build(network, y, operator=operator, **options), truth


def packed(problem, row):
    """The packed network that shows an observation, and the observation."""
    return PackedObservations(problem.network, problem.operator, problem.y).of(row)


class Evaluation:
    """What the kernel computes at the code of one observation, on generators smoothed by ``width``."""

    def __init__(self, problem, row, z, width=0.0):
        (numbers, layout, heads, sizes), y = packed(problem, row)
        work = DescentArrays.of(layout)
        self.ends, moved = work.ends, work.moved
        self.x, self.slopes = np.zeros((2, self.ends[-1]), dtype=np.float32)
        forward(numbers, layout, heads, (width * sizes).astype(np.float32), z, self.ends, self.x, self.slopes)
        r = np.zeros(len(y), dtype=np.float32)
        self.f = residual(self.x, self.ends[-2], y.astype(np.float32), r, z, problem.weights)
        work_of_jacobian = moved, work.on, work.part, work.rows, work.above
        count, rows = jacobian(numbers, layout, heads, self.ends, self.x, self.slopes, *work_of_jacobian)
        self.jacobian = np.zeros((len(y), len(z)))
        self.jacobian[moved[:count]] = rows[:count]
        self.gram, self.gradient = np.zeros((len(z), len(z))), np.zeros(len(z))
        box = np.array([[-np.inf], [np.inf]]) * np.ones(len(z))
        normal_equations(count, rows, moved, r, z, problem.weights, box, work.square, self.gram, self.gradient)


def system(problem, row, z, width=0.0):
    """The same by PyTorch in double precision: J^T J, half the gradient and f."""
    objective = SquaredError.of(problem)
    if width:
        objective = replace(objective, network=problem.network.smoothed(width))
    return [part[0].numpy() for part in objective.system(objective.tensor(z[None]), torch.tensor([row]))]


def run(problem, z, f=None, perturbations=None, limits=LIMITS, schedule=(), row=0):
    """Codes (c, k) after descents and perturbations, their f and the steps of each."""
    network, y = packed(problem, row)
    z = np.array(z)
    f = np.full(len(z), np.inf) if f is None else np.array(f)
    perturbations = np.empty((len(z), 0, z.shape[1])) if perturbations is None else perturbations
    steps = np.zeros(len(z), dtype=np.int64)
    box = np.stack([problem.bounds.lower, problem.bounds.upper])
    descend_and_perturb(
        network, np.array(schedule, dtype=np.float64), y.astype(np.float32), problem.weights, limits, box, z, f,
        perturbations, steps, DescentArrays.of(network.layout),
    )  # fmt: skip
    return z, f, steps


def objectives(problem, z, row=0):
    return problem.part(np.full(len(z), row)).objective(z)


def slope(problem, z, row=0):
    """|J^T r| / (|J| |r|) in double precision, of codes (c, k): 0 at a stationary point, at most 1."""
    parts = [system(problem, row, code) for code in z]
    return np.array([np.linalg.norm(g) / np.sqrt(np.linalg.norm(h, 2) * f) for h, g, f in parts])


# --- against PyTorch --------------------------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("width", [0.0, 0.3])
def test_outputs_and_jacobians_are_those_of_pytorch(name, width):
    network = NETWORKS[name]
    problem, truth = noisy(network)
    smoothed = network.smoothed(width) if width else network
    x, tangents = (part.numpy() for part in smoothed.linearize(torch.from_numpy(truth)))
    for row, z in enumerate(truth):
        found = Evaluation(problem, row, z, width)
        np.testing.assert_allclose(found.x[found.ends[-2] :], x[row], atol=ROUNDING * np.abs(x).max())
        np.testing.assert_allclose(found.jacobian, tangents[row].T, atol=ROUNDING * np.abs(tangents).max())


@every_network
@pytest.mark.parametrize("kind", MEASUREMENTS)
@pytest.mark.parametrize("sizes", ["alike", "shared", "of each observation"])
def test_normal_equations_are_those_of_pytorch_under_every_measurement(name, kind, sizes):
    """Also with sizes of errors over two decades, which leave the width of smoothed kinks alone."""
    seen = {"matrix": 12, "entries": 5}.get(kind, N)
    deviations = 10.0 ** np.random.default_rng(3).uniform(-2, 0, (B, seen) if sizes != "shared" else seen)
    options = {"prior": 0.5} if sizes == "alike" else {"noise": unrelu.Gaussian(deviations)}
    problem, truth = noisy(NETWORKS[name], kind, **options)
    width = 0.0 if sizes == "alike" else 0.3
    z = truth + 0.1
    for row in (0, B - 1):
        found = Evaluation(problem, row, z[row], width)
        gram, gradient, f = system(problem, row, z[row], width)
        size = np.linalg.norm(gram)
        np.testing.assert_allclose(found.gram, gram, atol=ROUNDING * size)
        np.testing.assert_allclose(found.gradient, gradient, atol=ROUNDING * (np.sqrt(size * f) + size))
        assert found.f == pytest.approx(f, abs=ROUNDING * (np.square(problem.y[row]).sum() + f))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_activation_in_compiled_code(dtype):
    """Values and derivatives of base functions, mixed with lines and at any steepness, as in PyTorch."""
    compiled_activate, u = compiled(activate), np.linspace(-9, 9, 400).astype(dtype)
    for activation in ACTIVATIONS.values():
        whole = activation.of(np.arange(400) % 4) if activation.slope.ndim else activation
        parameters = np.concatenate([np.broadcast_to(v, 400) for v in (whole.slope, whole.steepness, 1.0)]).astype(
            dtype
        )
        x, slopes = u.copy(), np.zeros(400, dtype)
        compiled_activate(whole.kind, parameters, dtype(0), x, slopes)
        at = torch.from_numpy(u.astype(np.float64))
        expected = whole.forward(at)
        derivative = whole.derivative(at, expected).numpy()
        rounding = 30 * np.finfo(dtype).eps * np.maximum(np.abs(u), np.maximum(1, np.abs(expected.numpy())))
        assert (np.abs(x - expected.numpy()) <= rounding).all(), str(activation)
        assert (np.abs(slopes - derivative) <= np.maximum(1, np.abs(u)) * rounding).all(), str(activation)


# --- packing ----------------------------------------------------------------------------------------------------------


# --- a descent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "prior"), [("sigmoid", "whole", 0.0), ("tanh", "matrix", 0.1)])
def test_descents_on_smooth_networks_end_at_stationary_points(name, kind, prior):
    problem, truth = noisy(NETWORKS[name], kind, prior=prior)
    z, f, steps = run(problem, truth[0] + 0.3 * drawn(20, K), limits=DescentLimits(200, 1e-7, 0.0))
    assert np.quantile(slope(problem, z), 0.9) < 2e-3  # the square root of the decrease that is still promised is 3e-4
    assert (steps > 0).all()
    np.testing.assert_allclose(f, objectives(problem, z), rtol=1e-4)


@every_network
def test_most_descents_end_where_no_code_nearby_is_better(name):
    problem, truth = noisy(NETWORKS[name])
    z, f, _ = run(problem, truth[0] + 0.5 * drawn(30, K), schedule=np.geomspace(1, 0.02, 10))
    around = z[:, None] + 0.01 * drawn(30, 100, K)
    lowest = objectives(problem, around.reshape(-1, K)).reshape(30, 100).min(axis=1)
    assert (lowest >= 0.99 * f).mean() >= 0.8


def test_a_descent_ends_when_its_objective_is_small_enough():
    problem, truth = noisy(NETWORKS["relu"], level=0.0)
    start = truth[0] + 0.1 * drawn(20, K)
    enough = float(np.median(objectives(problem, start)))
    _, f, steps = run(problem, start, limits=DescentLimits(100, 1e-6, enough))
    assert (f <= enough).all()
    assert (steps == 0).sum() == 10  # half of them began there
    _, exact, _ = run(problem, start)
    assert (exact < 1e-10 * np.square(problem.y[0]).sum()).mean() > 0.5


def test_a_descent_does_not_depend_on_those_before_it():
    problem, truth = noisy(NETWORKS["four layers"])
    start, perturbations = truth + 0.5, drawn(B, 3, K)
    options = {"schedule": np.geomspace(1, 0.02, 5), "limits": DescentLimits(16, 1e-2, 0.0)}
    together = run(problem, start, perturbations=perturbations, **options)
    rng = np.random.default_rng(1)
    small_arrays = []
    for trial in range(600):
        # Memory of other places: loops in vectors may take another way where arrays lie side by side.
        small_arrays = small_arrays[-300:] + [np.empty(size) for size in rng.integers(1, 60, size=rng.integers(8))]
        i = trial % B
        alone = run(problem, start[i : i + 1], perturbations=perturbations[i : i + 1], **options)
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[i])


# --- perturbations ----------------------------------------------------------------------------------------------------


@every_network
def test_perturbations_never_raise_the_objective(name):
    problem, truth = noisy(NETWORKS[name], level=0.3)
    start = truth[0] + drawn(20, K)
    z, f, steps = run(problem, start, limits=DescentLimits(16, 1e-2, 0.0))
    perturbations = 0.5 * drawn(20, 6, K)
    for i in range(6):
        lower_z, lower, more = run(problem, z, f, perturbations[:, i : i + 1], limits=DescentLimits(16, 1e-2, 0.0))
        kept = lower == f
        np.testing.assert_array_equal(lower_z[kept], z[kept])
        assert (lower <= f).all()
        assert (more > 0).all()
        np.testing.assert_allclose(lower, objectives(problem, lower_z), rtol=1e-4)
        z, f, steps = lower_z, lower, steps + more
    at_once = run(problem, start, perturbations=perturbations, limits=DescentLimits(16, 1e-2, 0.0))
    for one, other in zip(at_once[:2], (z, f), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


ENDS = st.sampled_from([-np.inf, -1e6, -3.0, -0.5, 0.0, 0.25, 1.0, 2.5, 1e6, np.inf])


@given(ENDS, ENDS, st.floats(-1e9, 1e9))
def test_a_coordinate_is_mirrored_at_its_bounds_in_numpy_as_in_the_kernel(low, high, value):
    low, high = min(low, high), max(low, high)
    if low in (high, np.inf) or high == -np.inf:
        low, high = -1.0, 1.0
    found = reflected(value, low, high)
    assert low <= found <= high
    bounds = Bounds(np.array([low]), np.array([high]))
    assert bounds.reflect(np.array([value]))[0] == found
    if low <= value <= high:
        assert found == pytest.approx(value, rel=1e-12, abs=1e-12 * min(high - low, 1e9))
    elif np.isinf(high - low):
        assert found == pytest.approx(2 * (low if value < low else high) - value)
    # Mirroring is continuous: it brings no two numbers further apart.
    near = value + 0.3
    distance = abs(reflected(near, low, high) - found)
    assert distance <= 0.3 * (1 + 1e-9) + 8 * np.spacing(abs(value) + min(high - low, 1e9))
    # And mirrored twice it comes back: a period of two widths.
    if np.isfinite(high - low):
        again = reflected(value + 2 * (high - low), low, high)
        assert again == pytest.approx(found, abs=16 * np.spacing(abs(value) + 4 * (high - low)))
