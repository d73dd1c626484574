"""``from_torch(f, bounds=...)``: functions of parameters in units of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from unrelu.errors import InputError, OptionError

X = torch.linspace(0.1, 2, 30, dtype=torch.float64)
BOX = {"rate": (0.0005, 0.002), "h": (0.5, 0.9)}


def spectrum(t):
    """Defined for h above 0.4 alone: the logarithm is NaN elsewhere."""
    return torch.log(t[:, 1:] - 0.4) * torch.exp(-1000 * t[:, :1] * X)


NET = unrelu.from_torch(spectrum, bounds=BOX)


def test_names_and_bounds_are_the_users():
    assert NET.names.coordinate_names == ("rate", "h")
    np.testing.assert_array_equal(NET.domain.ends, [[0.0005, 0.5], [0.002, 0.9]])
    assert "rate 0.0005 to 0.002, h 0.5 to 0.9" in str(NET)
    low, high = NET.domain.ends
    assert ((NET.typical_codes >= low) & (NET.typical_codes <= high)).all()
    assert np.isfinite(NET.typical_outputs).all()


@pytest.mark.parametrize("truth", [[0.0011, 0.83], [0.0019, 0.51]])
def test_a_search_stays_within_them(truth):
    y = NET(truth) + 0.01 * np.random.default_rng(3).standard_normal(30)
    r = unrelu.invert(NET, y, noise="gaussian:0.01")
    low, high = NET.domain.ends
    assert ((r.z >= low) & (r.z <= high)).all()
    assert r.success
    assert r.confidence > 0.98
    assert np.abs((r.z - truth) / r.laplace().std).max() < 5
    wide = unrelu.invert(NET, y, noise="gaussian:0.01", bounds={"rate": (0.0, 0.01), "h": (0.41, 2.0)})
    np.testing.assert_allclose(wide.z, r.z, rtol=1e-4)


def test_the_posterior_is_uniform_within_them():
    y = NET([0.0011, 0.83]) + 0.01 * np.random.default_rng(4).standard_normal(30)
    p = unrelu.posterior(NET, y, noise="gaussian:0.01", draws=100)
    assert "uniform within the bounds" in str(p)
    axes = [np.linspace(low, high, 400) for low, high in BOX.values()]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log = -0.5 * np.square((y - NET(grid)) / 0.01).sum(axis=1)
    weights = np.exp(log - log.max())
    mean = weights @ grid / weights.sum()
    deviation = np.sqrt(weights @ np.square(grid - mean) / weights.sum())
    np.testing.assert_allclose((p.mean - mean) / deviation, 0, atol=0.2)


def test_layers_are_read_and_keep_the_domain():
    module = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 20)).double()
    net = unrelu.from_torch(module, bounds={"a": (10.0, 30.0), "b": (-np.inf, 0.0)})
    assert isinstance(net.plain, unrelu.Network)
    np.testing.assert_array_equal(net.domain.ends, [[10.0, -np.inf], [30.0, 0.0]])
    r = unrelu.invert(net, net([17.0, -0.4]))
    assert r.status.name in ("EXACT_FIT", "NOT_UNIQUE")
    assert 10 <= r.z[0] <= 30
    assert r.z[1] <= 0
    extended = unrelu.extend(net, offset=(-1.0, 1.0))
    np.testing.assert_array_equal(extended.domain.ends, [[10.0, -np.inf, -np.inf], [30.0, 0.0, np.inf]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bounds": {"h": (1.0, 0.5)}}, InputError, r"\(h\) has the lower bound 1 and the upper one 0.5"),
        ({"bounds": {"h": 3}}, InputError, "'h' has 3; pass"),
        ({"bounds": (0, 1)}, InputError, "must be a dictionary of pairs by name"),
        ({"bounds": BOX, "latent_shape": 3}, OptionError, "bounds= are of 2 coordinates"),
        ({"bounds": {"h": (0.5, 0.9), "rate": (0.0, 0.3)}}, unrelu.errors.UnsupportedModelError, "NaN"),
    ],
)
def test_what_is_no_domain_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        unrelu.from_torch(spectrum, **arguments)
