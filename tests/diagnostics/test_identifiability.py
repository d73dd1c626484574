"""identifiability(), and what invert() says of it: rank, sigma_min, margin, error bound, free directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import unrelu
from tests.opaque_modules import Residual, Untraceable, made
from tests.support import EPS, image_network, random_network, rounding
from unrelu.diagnostics.identifiability import local_rank
from unrelu.errors import InputError
from unrelu.measurements import read_operator
from unrelu.models import generator

KINDS = ("relu", "leaky_relu:0.1", "identity", "tanh")


def jacobian(network, z):
    """Of a dense network by its matrices, with the pre-activations u and their derivatives du, layer by layer."""
    x, tangents, trace = z, np.eye(len(z)), []
    for layer in network.layers:
        u, du = layer.matrix() @ x + layer.bias(), layer.matrix() @ tangents
        x = layer.activation.value(u)
        slope = layer.activation.derivative(torch.from_numpy(u[None]), torch.from_numpy(x[None])).numpy()[0]
        tangents = slope[:, None] * du
        trace.append((u, du))
    return tangents, trace


def signs(network, z):
    return np.concatenate([u > 0 for u, _ in jacobian(network, z)[1]])


def with_spectrum(values, n=30, seed=0):
    """A linear generator whose Jacobian has these singular values."""
    rng = np.random.default_rng(seed)
    left, _ = np.linalg.qr(rng.standard_normal((n, len(values))))
    right, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return unrelu.from_arrays([left * values @ right.T], activation="identity")


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    kind=st.sampled_from(KINDS),
    measured=st.sampled_from(["all", "mask", "masks", "matrix"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rank_and_sigma_min_are_those_of_the_jacobian_of_what_is_measured(sizes, kind, measured, seed):
    network = random_network(tuple(sizes), kind, seed, True)
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((4, sizes[0]))
    n = sizes[-1]
    seen = rng.random((4, n)) < 0.6
    seen[:, 0] = True
    operator = {"all": None, "mask": seen[0], "masks": seen, "matrix": rng.standard_normal((n + 2, n))}[measured]
    told = unrelu.identifiability(network, z, operator)
    ranks, frees, sigmas = local_rank(network, z, read_operator(operator, (n,), (4, n)))
    for i, code in enumerate(z):
        a = {"all": np.eye(n), "mask": np.diag(seen[0]), "masks": np.diag(seen[i]), "matrix": operator}[measured]
        values = np.linalg.svd(a @ jacobian(network, code)[0], compute_uv=False)
        smallest = values[-1] if len(values) == sizes[0] else 0.0
        assert told.sigma_min[i] == pytest.approx(smallest, rel=1e-8, abs=1e-14 * (1 + values[0]))
        assert sigmas[i] == pytest.approx(smallest, rel=1e-2, abs=1e-14 * (1 + values[0]))
        assert told.rank[i] == ranks[i] == (values > 1e-10 * values[0]).sum()
        assert told.dimension[i] == frees[i] == sizes[0] - told.rank[i]
        assert told.identifiable[i] == (told.rank[i] == sizes[0])


@pytest.mark.parametrize("scale", [1e-170, 1e-60, 1.0, 1e60, 1e170])
def test_the_size_of_the_generator_does_not_matter(scale):
    told = unrelu.identifiability(with_spectrum(scale * np.array([5.0, 2.0, 1e-3])), np.ones((1, 3)))
    assert told.rank[0] == 3
    assert told.sigma_min[0] == pytest.approx(1e-3 * scale)
    assert unrelu.identifiability(with_spectrum(scale * np.array([5.0, 2.0, 1e-13])), np.ones((1, 3))).rank[0] == 2


@given(
    sizes=st.lists(st.integers(2, 9), min_size=2, max_size=4),
    kind=st.sampled_from(["relu", "leaky_relu:0.1"]),
    seed=st.integers(0, 2**32 - 1),
    bias=st.booleans(),
)
def test_no_sign_flips_within_the_margin_and_one_does_at_it(sizes, kind, seed, bias):
    network = random_network(tuple(sizes), kind, seed, bias)
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(sizes[0])
    margin = unrelu.identifiability(network, z).margin
    here = signs(network, z)
    for step in rng.standard_normal((20, sizes[0])):
        moved = z + (1 - 1e-9) * margin * step / np.linalg.norm(step)
        np.testing.assert_array_equal(signs(network, moved), here)
    # The shortest way to the kink of each neuron, gone a little too far.
    flipped, reach = False, []
    for u, du in jacobian(network, z)[1]:
        for height, slope in zip(u, du, strict=True):
            if slope.any():
                reach.append(abs(height) / np.linalg.norm(slope))
                flipped |= (signs(network, z - (1 + 1e-6) * height * slope / (slope @ slope)) != here).any()
    assert margin == pytest.approx(min(reach))
    assert flipped


def test_behind_a_smooth_activation_there_is_no_margin():
    z = np.random.default_rng(0).standard_normal((3, 4))
    output, hidden = random_network((4, 9, 30), last="sigmoid"), random_network((4, 9, 30), "tanh", last="relu")
    margin = unrelu.identifiability(output, z).margin
    assert (margin > 0).all()
    np.testing.assert_allclose(margin, unrelu.identifiability(random_network((4, 9, 30), last="identity"), z).margin)
    told = unrelu.identifiability(hidden, z)
    assert np.isnan(told.margin).all()


@pytest.mark.parametrize("measured", [False, True])
def test_directions_are_an_orthonormal_basis_of_what_is_free(measured):
    network = random_network((6, 8, 20))
    z = np.random.default_rng(1).standard_normal((20, 6))
    seen = np.random.default_rng(2).random((20, 20)) < 0.5 if measured else None
    told = unrelu.identifiability(network, z, seen)
    assert {0} < set(told.dimension)
    for i, (code, free) in enumerate(zip(z, told.dimension, strict=True)):
        basis = told.directions(i)
        assert basis.shape == (6, free)
        np.testing.assert_allclose(basis.T @ basis, np.eye(free), atol=1e-12)
        shift = network(code + 0.9 * min(told.margin[i], 1) * basis.T) - network(code)
        np.testing.assert_allclose(shift if seen is None else shift * seen[i], 0, atol=1e-12)
    np.testing.assert_array_equal(told.directions(-1), told.directions(19))
    with pytest.raises(IndexError):
        told.directions(20)


def test_where_hidden_neurons_are_at_their_kink_full_rank_still_tells():
    network = unrelu.from_arrays([np.vstack([np.eye(2), [[1.0, -1.0]]]), np.eye(3)])
    told = unrelu.identifiability(network, [1.0, 1.0])
    assert (told.rank, told.dimension, told.identifiable) == (2, 0, True)
    dead = unrelu.identifiability(network, [0.0, 1.0])
    assert (dead.rank, dead.identifiable) == (1, False)


def test_codes_that_are_not_there_are_not_identifiable():
    network = random_network((3, 12, 40))
    z = np.random.default_rng(0).standard_normal((4, 3))
    z[1], z[2, 0], z[3] = np.nan, np.inf, 1e308
    told = unrelu.identifiability(network, z)
    assert told.identifiable.tolist() == [True, False, False, False]
    assert told.rank.tolist() == [3, -1, -1, -1]
    assert told.dimension.tolist() == [0, -1, -1, -1]
    for values in (told.sigma_min, told.margin):
        assert np.isnan(values).tolist() == [False, True, True, True]
    assert local_rank(network, z)[0].tolist() == [3, -1, -1, -1]
    assert told.directions(1).shape == (3, 0)


def test_one_code_has_scalars_and_a_batch_has_arrays():
    network = image_network()
    z = np.random.default_rng(0).standard_normal((4, 3))
    batch, one = unrelu.identifiability(network, z), unrelu.identifiability(network, z[0])
    types = {"rank": int, "sigma_min": float, "dimension": int, "margin": float, "identifiable": bool}
    for name, kind in types.items():
        assert getattr(batch, name).shape == (4,)
        assert type(getattr(one, name)) is kind
        assert getattr(one, name) == pytest.approx(getattr(batch, name)[0])
    assert unrelu.identifiability(network, np.zeros((0, 3))).rank.shape == (0,)


def test_codes_are_looked_at_in_parts_that_fit_into_memory(monkeypatch):
    network, z = random_network((6, 8, 20)), np.random.default_rng(1).standard_normal((7, 6))
    seen = np.random.default_rng(2).random((7, 20)) < 0.5
    whole = unrelu.identifiability(network, z, seen)
    monkeypatch.setattr("unrelu.diagnostics.identifiability.JACOBIAN_NUMBERS", 250)
    parts = unrelu.identifiability(network, z, seen)
    assert parts.rank.tolist() == whole.rank.tolist()
    assert parts.dimension.tolist() == whole.dimension.tolist()
    # Singular values are as exact as their matrix: its sums of 8 products, and the largest of its singular values.
    off = rounding(network, np.eye(6))
    largest = np.linalg.norm(network.jacobian(z), 2, axis=(1, 2)).max()
    np.testing.assert_allclose(parts.sigma_min, whole.sigma_min, rtol=0, atol=20 * (off + EPS * largest))
    # A margin is |u| / |slope| of some neuron: the rounding of u, by slopes of which none is below 0.1 here.
    assert min(np.linalg.norm(du[u != 0], axis=1).min() for c in z for u, du in jacobian(network, c)[1]) > 0.1
    np.testing.assert_allclose(parts.margin, whole.margin, rtol=1e-12, atol=rounding(network, z) / 0.1)


def test_generators_without_known_layers_have_no_margin():
    chain = made(nn.Sequential, nn.Linear(4, 12), nn.LeakyReLU(0.1), nn.Linear(12, 30), nn.ReLU())
    net, hidden = unrelu.from_torch(chain), unrelu.from_torch(Untraceable(chain).eval(), 4)
    z = np.random.default_rng(0).standard_normal((5, 4))
    z[4] = np.nan
    told, opaque = unrelu.identifiability(net, z), unrelu.identifiability(hidden, z)
    for name in ("rank", "sigma_min", "dimension", "identifiable"):
        np.testing.assert_allclose(getattr(opaque, name), getattr(told, name), rtol=1e-9)
    assert np.isnan(opaque.margin).all()
    assert (told.margin[:4] > 0).all()
    np.testing.assert_array_equal(unrelu.invert(hidden, net(z[:4]), "lm", z0=z[:4]).identifiable, told.identifiable[:4])


@pytest.mark.parametrize(
    ("z", "operator", "message"),
    [
        (np.ones(2), None, r"z has shape \(2,\); this network takes codes of shape \(3,\) or \(B, 3\)"),
        (np.ones((2, 2, 3)), None, "z has shape"),
        (np.ones((2, 3)), np.ones((5, 40), dtype=bool), "operator= has 5 masks for 2 codes"),
        (np.ones((2, 3)), np.ones((5, 39)), "operator= has shape"),
    ],
)
def test_what_does_not_fit_is_refused(z, operator, message):
    with pytest.raises(InputError, match=message):
        unrelu.identifiability(random_network((3, 12, 40)), z, operator)


# --- invert() ---------------------------------------------------------------------------------------------------------


def returning(*codes):
    return lambda problem: unrelu.Inversion.of(problem, np.array(codes), method="mine")


def test_what_the_residual_hides_is_not_identifiable():
    """An exact fit up to 1e-8, off by a hundredth along a direction that changes the output by 1e-7 of the others."""
    network = with_spectrum([1.0, 1.0, 1e-7])
    soft = np.linalg.svd(network.jacobian(np.zeros(3)))[2][-1]
    z = np.ones(3)
    r = unrelu.invert(network, np.stack([network(z)] * 2), returning(z, z + 1e-2 * soft))
    assert [status.name for status in r.status] == ["EXACT_FIT", "EXACT_FIT"]
    assert (r.freedom.tolist(), r.rank.tolist()) == ([0, 0], [3, 3])
    assert r.identifiable.tolist() == [True, False]


@pytest.mark.parametrize("method", ["auto", "lm", "exact"])
@pytest.mark.parametrize("size", [1e13, 1e16, 1e30, 1e100])
def test_a_code_that_rounding_wiped_out_is_not_identifiable(size, method):
    """Biases so large beside W z that y has no digit left of it: any residual is 0, and tells nothing."""
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal((8, 3)), rng.standard_normal((20, 8))]
    network = unrelu.from_arrays(weights, [size * np.abs(rng.standard_normal(8)), None])
    truth = np.array([0.3, -0.4, 0.9])
    found = unrelu.invert(network, network(truth), method)
    assert not found.identifiable
    small = unrelu.from_arrays(weights, [np.abs(rng.standard_normal(8)), None])
    assert unrelu.invert(small, small(truth), method).identifiable


# --- kinks of generators without known layers -------------------------------------------------------------------------


class Folded(nn.Module):
    """|z_1| and z_2 through linear maps, and outputs that may end in a kink of their own."""

    def __init__(self, hidden=True, outputs=0):
        super().__init__()
        self.hidden, self.outputs = hidden, outputs
        self.last = nn.Linear(2, 12)

    def forward(self, z):
        h = torch.stack([z[:, 0].abs() if self.hidden else z[:, 0], torch.sin(z[:, 1])], dim=1)
        x = self.last(h)
        first = torch.maximum(z[:, :1] - 1.0, torch.zeros_like(z[:, :1])).expand(-1, self.outputs)
        return torch.cat([first, x], dim=1)


def test_kinks_without_known_layers_leave_it_unknown_unless_the_other_outputs_decide():
    """At z_1 = 0 both signs give the same output, though every Jacobian there has rank 2."""
    hidden = unrelu.from_torch(made(Folded), latent_shape=2)
    told = unrelu.identifiability(hidden, [[0.0, 0.3], [0.5, 0.3]])
    assert told.dimension.tolist() == [-1, 0]
    assert told.identifiable.tolist() == [False, True]
    assert local_rank(hidden, np.array([[0.0, 0.3]]))[1].tolist() == [-1]
    at_output = unrelu.from_torch(made(lambda: Folded(hidden=False, outputs=3)), latent_shape=2)
    assert unrelu.identifiability(at_output, [1.0, 0.3]).identifiable
    shown = np.arange(15) < 4
    assert unrelu.identifiability(at_output, [1.0, 0.3], shown).dimension == -1


def small_and_large(monkeypatch, module):
    """The same generator, as it is and as one with an expensive Jacobian."""
    network = unrelu.from_torch(module, latent_shape=(5,))
    found = local_rank(network, (z := np.random.default_rng(0).standard_normal((3, 5))))
    monkeypatch.setattr(generator, "_LARGE", 1)
    return found, local_rank(network, z)


def test_single_precision_shows_full_rank_with_a_lower_bound_of_sigma_min(monkeypatch):
    small, large = small_and_large(monkeypatch, made(Residual))
    assert large[0].tolist() == small[0].tolist() == [5, 5, 5]
    assert large[1].tolist() == [0, 0, 0]
    assert (large[2] < small[2]).all()  # else it was computed in double precision
    assert (large[2] > 0.99 * small[2]).all()


@pytest.mark.parametrize("smallest", [0.0, 1e-6])
def test_single_precision_shows_nothing_where_its_error_hides_the_smallest_singular_value(monkeypatch, smallest):
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 5)))[0]
    linear = nn.Linear(5, 8, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(turn * [1.0, 1.0, 1.0, 1.0, smallest]))
    small, large = small_and_large(monkeypatch, linear)
    assert large[0].tolist() == [4 + (smallest > 0)] * 3
    for own, same in zip(small, large, strict=True):
        np.testing.assert_array_equal(own, same)
