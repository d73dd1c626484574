"""identifiability(), and what invert() says of it: rank, sigma_min, margin, error bound, free directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import unrelu
from tests.opaque_modules import Untraceable, made
from tests.support import EPS, image_network, paper_network, random_network, rounding
from unrelu.diagnostics.identifiability import local_rank
from unrelu.errors import InputError
from unrelu.measurements import read_operator
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense
from unrelu.models.network import Network

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


@pytest.mark.parametrize("measured", ["all", "mask", "matrix"])
def test_the_rank_is_the_same_by_the_quick_way_where_neurons_are_at_kinks(measured):
    """A code with three last neurons exactly at their kink, on outputs that are just enough without them."""
    rng = np.random.default_rng(4)
    matrix = rng.normal(size=(24, 5))
    z = rng.normal(size=(6, 5))
    for code, rank in zip(z, (5, 5, 4, 4, 5, 3), strict=True):
        u = matrix @ code
        bias = np.where(np.argsort(np.argsort(-u)) < rank, -u + 1, np.where(rng.random(24) < 0.2, -u, -u - 1))
        network = unrelu.from_arrays([matrix], [bias])
        operator = {"all": None, "mask": np.ones(24), "matrix": unrelu.Matrix(rng.normal(size=(30, 24)))}[measured]
        operator = read_operator(operator, (24,), (1, 30 if measured == "matrix" else 24))
        told = unrelu.identifiability(network, code[None], operator)
        ranks, free, sigma = local_rank(network, code[None], operator)
        assert (ranks[0], free[0]) == (told.rank[0], told.dimension[0]) == (rank, told.dimension[0])
        assert sigma[0] == pytest.approx(told.sigma_min[0], rel=1e-2, abs=1e-12)


@pytest.mark.parametrize("soft", [1e-2, 1e-4, 1e-7, 1e-9])
def test_sigma_min_is_right_far_below_the_root_of_rounding(soft):
    network = with_spectrum([5.0, 2.0, 1.0, soft])
    told = unrelu.identifiability(network, np.zeros((2, 4)))
    np.testing.assert_allclose(told.sigma_min, soft, rtol=1e-14 / soft + 1e-9)
    assert told.identifiable.all()
    np.testing.assert_allclose(local_rank(network, np.zeros((2, 4)))[2], soft, rtol=1e-2)


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


def test_margins_that_are_known_by_hand():
    """G(z) = relu(z_1 - 3), relu(-z_2 - 5), 0: the first comes on at distance 4, the others are never nearer."""
    weight = np.array([[1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    network = unrelu.from_arrays([weight], [np.array([-3.0, -5.0, 0.0])])
    assert unrelu.identifiability(network, [-1.0, 0.0]).margin == 4
    assert unrelu.identifiability(network, [[3.0, 0.0], [2.0, -5.5]]).margin.tolist() == [0, 0.5]
    linear = unrelu.from_arrays([weight], activation="identity")
    assert unrelu.identifiability(linear, [1.0, 1.0]).margin == np.inf


def test_a_prelu_with_slope_one_has_no_kink():
    def network(slopes):
        return Network.chain([Dense(torch.eye(2, dtype=torch.float64)), Activation("prelu", slopes)], (2,))

    assert unrelu.identifiability(network([1.0, 0.5]), [1e-3, 2.0]).margin == 2
    assert unrelu.identifiability(network([1.0, 1.0]), [1e-3, 2.0]).margin == np.inf


def test_behind_a_smooth_activation_there_is_no_margin():
    z = np.random.default_rng(0).standard_normal((3, 4))
    output, hidden = random_network((4, 9, 30), last="sigmoid"), random_network((4, 9, 30), "tanh", last="relu")
    margin = unrelu.identifiability(output, z).margin
    assert (margin > 0).all()
    np.testing.assert_allclose(margin, unrelu.identifiability(random_network((4, 9, 30), last="identity"), z).margin)
    told = unrelu.identifiability(hidden, z)
    assert np.isnan(told.margin).all()
    # With a sigmoid at the end the pieces are known, but the map on them is not affine.
    for seen in (told, unrelu.identifiability(output, z)):
        assert np.isfinite(seen.error_bound(1e-9, 0.0)).all()
        assert not seen.bound_holds(1e-9, 0.0).any()


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["relu", "leaky_relu:0.1"]), size=st.floats(1e-9, 1e-2))
def test_the_error_bound_holds_on_the_piece(seed, kind, size):
    network = random_network((3, 12, 40), kind, seed, True)
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(3)
    y = network(truth) + size * rng.standard_normal(40)
    noise = np.linalg.norm(y - network(truth))
    j = network.jacobian(truth)
    best = truth + np.linalg.lstsq(j, y - network(truth), rcond=None)[0]
    off = best + size * rng.standard_normal(3)
    for code, fit in ((best, 0.0), (off, np.linalg.norm(y - network(off)))):
        told = unrelu.identifiability(network, code)
        same = (signs(network, code) == signs(network, truth)).all()
        if same and told.rank == 3:
            assert np.linalg.norm(code - truth) <= told.error_bound(noise, fit) * (1 + 1e-9) + 1e-14
        if told.bound_holds(noise, fit):
            steps = rng.standard_normal((5, 3))
            steps *= (told.error_bound(noise, fit) / np.linalg.norm(steps, axis=1))[:, None]
            assert all((signs(network, code + step) == signs(network, code)).all() for step in steps)


def test_the_error_bound_is_reached_by_the_worst_noise():
    network = random_network((3, 12, 40))
    z = np.random.default_rng(0).standard_normal(3)
    told = unrelu.identifiability(network, z)
    left, values, right = np.linalg.svd(network.jacobian(z), full_matrices=False)
    noise = 0.5 * told.margin * values[-1]
    assert told.bound_holds(noise, 0.0)
    assert not told.bound_holds(3 * noise, 0.0)
    moved = z + noise / values[-1] * right[-1]
    np.testing.assert_allclose(
        network(moved), network(z) + noise * left[:, -1], rtol=0, atol=rounding(network, [z, moved])
    )
    assert told.error_bound(noise, 0.0) == pytest.approx(np.linalg.norm(moved - z))
    assert told.error_bound(noise, noise) == pytest.approx(2 * told.error_bound(noise, 0.0))


def test_without_full_rank_nothing_bounds_the_error():
    told = unrelu.identifiability(with_spectrum([1.0, 0.0]), np.ones((2, 2)))
    assert told.error_bound(np.array([0.0, 1.0]), 0.0).tolist() == [np.inf, np.inf]
    assert told.bound_holds(0.0, 0.0).tolist() == [False, False]
    with pytest.raises(InputError, match="norms, of at least 0; their sum is -1"):
        told.error_bound(-1.0, 0.0)


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


def test_directions_at_kinks_span_the_cone():
    """Of max(0, z) at (1, 0): the second coordinate may fall. Of the corner nothing may move."""
    half = unrelu.identifiability(unrelu.from_arrays([np.eye(2)]), [1.0, 0.0])
    assert (half.rank, half.dimension, half.identifiable, half.margin) == (1, 1, False, 0)
    np.testing.assert_allclose(np.abs(half.directions()), [[0.0], [1.0]])
    corner = unrelu.identifiability(unrelu.from_arrays([np.vstack([np.eye(3), -np.ones((1, 3))])]), np.zeros(3))
    assert (corner.rank, corner.dimension, corner.identifiable) == (0, 0, True)
    assert corner.directions().shape == (3, 0)


def test_where_hidden_neurons_are_at_their_kink_full_rank_still_tells():
    network = unrelu.from_arrays([np.vstack([np.eye(2), [[1.0, -1.0]]]), np.eye(3)])
    told = unrelu.identifiability(network, [1.0, 1.0])
    assert (told.rank, told.dimension, told.identifiable) == (2, 0, True)
    dead = unrelu.identifiability(network, [0.0, 1.0])
    assert (dead.rank, dead.identifiable) == (1, False)


def test_hidden_kinks_of_full_rank_whatever_their_signs():
    """The difference of two equal inputs is the kink."""
    second = np.random.default_rng(0).standard_normal((8, 5))
    first = unrelu.from_arrays([np.vstack([np.eye(2), [[1.0, -1.0]], -np.eye(2)])])
    last = unrelu.from_arrays([second], activation="leaky_relu:0.5")
    kinked = Network((*first.layers, *last.layers), (2,))
    expected = unrelu.identifiability(kinked, [1.0, 1.0])
    assert (expected.rank, expected.dimension) == (2, 0)


def test_the_other_side_of_the_kinks_has_directions_too():
    network = unrelu.from_arrays(
        [np.array([[1.0], [1.0]]), np.array([[-1.0, 1.0]])], [np.array([0.0, 1.0]), np.zeros(1)]
    )
    told = unrelu.identifiability(network, [0.0])
    assert (told.rank, told.dimension, told.identifiable) == (1, 1, False)
    np.testing.assert_allclose(np.abs(told.directions()), [[1.0]])


def test_codes_that_are_not_there_are_not_identifiable():
    network = random_network((3, 12, 40))
    z = np.random.default_rng(0).standard_normal((4, 3))
    z[1], z[2, 0], z[3] = np.nan, np.inf, 1e308
    told = unrelu.identifiability(network, z)
    assert told.identifiable.tolist() == [True, False, False, False]
    assert told.rank.tolist() == [3, -1, -1, -1]
    assert told.dimension.tolist() == [0, -1, -1, -1]
    for values in (told.sigma_min, told.margin, told.error_bound(1.0, 0.0)):
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
    assert (type(one.error_bound(1.0, 0.0)), type(one.bound_holds(1.0, 0.0))) == (float, bool)
    assert batch.error_bound(np.ones(4), 0.0).shape == batch.bound_holds(1.0, 0.0).shape == (4,)
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


def test_single_precision_is_looked_at_in_double():
    network, z = random_network((3, 12, 40)), np.random.default_rng(0).standard_normal((4, 3))
    told = unrelu.identifiability(network, z)
    single = unrelu.identifiability(network.to(torch.float32).to(torch.float64), z)
    again = unrelu.identifiability(network.to(torch.float32), z)
    np.testing.assert_allclose(again.sigma_min, told.sigma_min, rtol=1e-5)
    np.testing.assert_array_equal(again.margin, single.margin)


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
    assert not opaque.bound_holds(0.0, 0.0).any()
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


def test_results_say_of_every_code_whether_it_is_told():
    network = random_network((6, 8, 20))
    z = np.random.default_rng(1).standard_normal((30, 6))
    noisy = network(z) + 0.1
    noisy[0] = network(z[0])
    codes = z.copy()
    codes[1] = np.nan
    r = unrelu.invert(network, noisy, returning(*codes))
    told = unrelu.identifiability(network, codes)
    np.testing.assert_array_equal(r.rank, told.rank)
    np.testing.assert_array_equal(r.identifiable, told.identifiable)
    assert set(r.identifiable) == {True, False}
    assert (r.rank[1], r.freedom.tolist()) == (-1, [told.dimension[0], *[-1] * 29])
    one = unrelu.invert(network, noisy[0], returning(codes[0]))
    assert (one.rank, one.identifiable) == (r.rank[0], r.identifiable[0])


def test_the_residual_of_single_precision_still_tells():
    network = random_network((3, 12, 40)).to(torch.float32)
    r = unrelu.invert(network, network(np.ones((2, 3))), "lm", z0=np.ones(3) + 0.01)
    assert (r.identifiable.tolist(), r.rank.tolist()) == ([True, True], [3, 3])


@pytest.mark.parametrize("k", [100, 130])
def test_random_nets_are_recovered_exactly_where_they_are_identifiable(k):
    network = paper_network((k, 250, 600))
    z = np.random.default_rng(3).standard_normal((6, k))
    r = unrelu.invert(network, network(z))
    error = np.linalg.norm(r.z - z, axis=1) / np.linalg.norm(z, axis=1)
    np.testing.assert_array_equal(r.identifiable, error <= 1e-6)


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


def test_rounding_of_hidden_layers_counts_where_their_terms_cancel():
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal((8, 3)), rng.standard_normal((20, 8))]
    offset = 1e11 * np.abs(rng.standard_normal(8))
    network = unrelu.from_arrays(weights, [offset, -weights[1] @ offset], activation=["relu", "identity"])
    y = network(np.array([0.3, -0.4, 0.9]))
    assert np.abs(y).max() < 100
    found = unrelu.invert(network, y, "exact")
    assert found.status.name != "EXACT_FIT" or not found.identifiable


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


def test_a_kink_of_one_output_is_seen_beside_larger_ones():
    def function(z):
        low = torch.minimum(z[:, :1], torch.zeros_like(z[:, :1]))
        return torch.cat([low, 2 * low, 1e6 * z[:, 1:], torch.sin(z[:, 1:])], 1)

    net = unrelu.from_torch(function, latent_shape=(2,))
    at = unrelu.identifiability(net, [[0.0, 0.5], [-0.5, 0.5], [0.5, 0.5]])
    assert at.identifiable.tolist() == [False, True, False]
    assert at.dimension.tolist() == [-1, 0, 1]
