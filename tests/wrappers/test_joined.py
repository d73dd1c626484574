"""Generators that share parameters by name, against each of them alone, and against chi-square written out."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg

import unrelu
from tests.opaque_modules import OPAQUE
from tests.support import random_network
from unrelu.errors import InputError, OptionError
from unrelu.models.activations import Activation
from unrelu.models.affine import Conv, Reshape
from unrelu.models.network import Network
from unrelu.models.rounding_error import Rounding
from unrelu.result import Status
from unrelu.wrappers.joined import JoinedGenerator
from unrelu.wrappers.standardisation import standardised

RNG = np.random.default_rng(4)
MATRICES = [RNG.standard_normal(shape) / 2 for shape in ((12, 3), (12, 12), (7, 12))]
SWISH = Activation("swish", RNG.uniform(0.1, 0.6, 12), steepness=RNG.uniform(0.5, 2, 12))
EMULATOR = unrelu.from_arrays(MATRICES, [RNG.standard_normal(len(w)) for w in MATRICES], [SWISH, SWISH, "identity"])
# Parameters in units of their own: their means and standard deviations.
UNITS = {"h": (0.7, 0.1), "a": (0.0, 1.0), "mass": (-2e3, 50.0)}
SCALES = tuple(np.transpose(list(UNITS.values())))
KERNEL = torch.from_numpy(RNG.standard_normal((3, 4, 1)))
PARTS = {
    "relu": random_network((3, 16, 9), seed=1, bias=True, last="identity").named(["a", "b", "c"]),
    "deep": random_network((2, 8, 8, 8, 5), seed=2, bias=True, last="identity").named(["c", "d"]),
    "tanh": random_network((2, 10, 10, 6), "tanh", seed=3, bias=True, last="sigmoid").named(["b", "a"]),
    "power": standardised(EMULATOR, SCALES, (0.3, 0.2), None, 10).named(["h", "a", "mass"]),
    "swish": standardised(EMULATOR, SCALES, (0.3, 0.2), None).named(["h", "b", "mass"]),
    "convolution": Network.chain([Reshape((4, 1)), Conv(KERNEL), Activation("relu")], (4,)).named(list("dabx")),
    "opaque": OPAQUE["residual"].named(list("abcdf")),
    "pictures": OPAQUE["skip"].named(list("fabcdg")),
}
CHAINS = (
    "relu deep",
    "deep tanh relu",
    "power swish",
    "swish relu",
    "relu tanh power deep",
    "convolution relu",
    "relu",
)
OTHERS = ("opaque relu", "pictures power opaque")


def joined(text):
    return unrelu.join(**{name: PARTS[name] for name in text.split()})


def codes(net, count=4):
    mean, std = np.transpose([UNITS.get(name, (0.0, 1.0)) for name in net.coordinate_names])
    return mean + std * np.random.default_rng(5).standard_normal((count, net.latent_dim))


def apart(net, text, z):
    """The outputs and Jacobians of the parts alone, put together: (B, n) and (B, n, k)."""
    values, blocks = [], []
    for part in (PARTS[name] for name in text.split()):
        places = [net.coordinate_names.index(name) for name in part.coordinate_names]
        values.append(part(z[:, places]).reshape(len(z), -1))
        blocks.append(np.zeros((len(z), part.output_dim, net.latent_dim)))
        blocks[-1][:, :, places] = part.jacobian(z[:, places])
    return np.concatenate(values, axis=1), np.concatenate(blocks, axis=1)


def agree(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12 * np.abs(wanted).max())


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*CHAINS, *OTHERS])
def test_values_and_jacobians_are_those_of_the_parts(text, monkeypatch):
    net = joined(text)
    assert isinstance(net.plain, Network if text in CHAINS else JoinedGenerator)
    monkeypatch.setattr("unrelu.wrappers.joined.LARGEST_COMPILED", 0)
    large = joined(text)
    assert isinstance(large.plain, JoinedGenerator)
    z = codes(net)
    values, jacobians = apart(net, text, z)
    for each in (net, large):
        agree(each(z), values)
        agree(each.jacobian(z), jacobians)
        assert each.coordinate_names == net.coordinate_names


def test_names_are_in_the_order_in_which_they_appear():
    net = joined("tanh relu deep")
    assert net.coordinate_names == ("b", "a", "c", "d")
    assert net.parts == {"tanh": (6,), "relu": (9,), "deep": (5,)}
    assert "coordinates: b, a, c, d\n  parts of an output: tanh 6, relu 9, deep 5" in str(net)
    x = net.by_part(net([0.1, 0.2, 0.3, 0.4]))
    agree(x["deep"], PARTS["deep"]([0.3, 0.4]))
    assert joined("pictures relu").parts == {"pictures": (1, 6, 6), "relu": (9,)}


def test_layers_of_one_kind_share_a_layer():
    """The deepest begins, and what waits is the code of the other, not its outputs."""
    assert [layer.out_shape for layer in joined("relu deep").layers] == [(8 + 3,), (8 + 3,), (16 + 8,), (9 + 5,)]
    assert len(joined("power swish").layers) == 3


def test_parts_of_parts_have_both_names():
    inner = joined("relu deep")
    net = unrelu.join(both=inner, tanh=PARTS["tanh"], split=PARTS["relu"].with_parts({"u": 4, "v": (5, 1)}))
    assert net.parts == {"both.relu": (9,), "both.deep": (5,), "tanh": (6,), "split.u": (4,), "split.v": (5, 1)}
    z = codes(net)
    agree(net.by_part(net(z))["both.deep"], PARTS["deep"](z[:, 2:]))
    agree(net.by_part(net(z))["split.v"][:, :, 0], PARTS["relu"](z[:, :3])[:, 4:])


def test_copies_of_it_are_joined_copies():
    net = joined("opaque relu").plain
    z = codes(joined("opaque relu"), 3)
    single = net.to(torch.float32)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single(z), net(z), rtol=1e-4, atol=1e-4)
    at = net.as_codes(z[:1])
    for each, part, places in zip(net.smoothed(0.5, at).generators, net.generators, net.coordinates, strict=True):
        agree(each(z[:, places]), part.smoothed(0.5, at[:, places])(z[:, places]))
    curved = unrelu.from_torch(lambda z: torch.sin(z) * z, 2).named(["a", "b"])
    assert (plain := unrelu.join(u=curved, v=curved).plain).smoothed(0.5) is plain
    assert net.work == sum(each.work for each in net.generators)


def test_the_rounding_is_the_largest():
    parts = [replace(PARTS[name].plain, rounding=Rounding(torch.float16, level)).named(PARTS[name].coordinate_names)
             for name, level in (("relu", 1e-3), ("deep", 2e-3))]  # fmt: skip
    assert unrelu.join(u=parts[0], v=parts[1]).rounding.level == 2e-3
    assert unrelu.join(u=parts[1], v=PARTS["opaque"]).rounding.level == 2e-3
    assert joined("relu deep").rounding is None


# --- domains and nuisance parameters ----------------------------------------------------------------------------------


def within(**bounds):
    return unrelu.from_torch(lambda z: torch.cat([z.exp(), torch.sin(3 * z) * z[:, :1]], dim=1), bounds=bounds)


@pytest.mark.parametrize("other", [within(n=(0, 1), h=(0.6, 2)), PARTS["deep"].plain.named(["n", "h"])])
def test_a_coordinate_has_the_domain_that_all_parts_have(other):
    net = unrelu.join(u=within(h=(0.5, 0.9), m=(-3, 4)), v=other)
    low = (0.5, 0) if other.domain is None else (0.6, 0)
    ends = [(low[0], 0.9), (-3, 4), (-np.inf, np.inf) if other.domain is None else (0, 1)]
    np.testing.assert_array_equal(np.transpose(net.domain.ends), ends)
    z = np.array([0.7, 1.0, 0.4])
    result = unrelu.invert(net, net(z))
    np.testing.assert_allclose(result.z, z, atol=1e-6)
    np.testing.assert_array_equal(np.transpose(result.problem.bounds.ends), ends)


def test_chains_keep_the_domain():
    line = unrelu.from_torch(torch.nn.Linear(2, 4), bounds={"h": (0.5, 0.9), "m": (-3, 4)})
    net = unrelu.join(u=line, v=PARTS["deep"])
    assert isinstance(net.plain, Network)
    np.testing.assert_array_equal(net.domain.ends, [[0.5, -3, -np.inf, -np.inf], [0.9, 4, np.inf, np.inf]])


def test_nuisance_parameters_are_shared_by_name():
    one, two = (unrelu.extend(PARTS[name], scale=(0.5, 2)) for name in ("relu", "tanh"))
    net = unrelu.join(u=one, v=two)
    assert net.coordinate_names == ("a", "b", "c", "scale")
    z = net.plain.latent_dim * [0.3]
    agree(net.by_part(net(z))["v"], two([0.3, 0.3, 0.3]))
    result = unrelu.invert(net, net([0.3, -0.2, 0.1, 0.5]))
    assert result.parameters == pytest.approx(
        {"a": 0.3, "b": -0.2, "c": 0.1, "scale": one.split([0, 0, 0, 0.5])[1]["scale"]}
    )


def test_a_calibration_on_top_is_found():
    net = unrelu.extend(joined("relu deep"), lambda x, gain: x / gain**2, gain=unrelu.Normal(1, 0.1))
    assert net.parts == {"relu": (9,), "deep": (5,)}
    y = net.by_part(joined("relu deep")([0.3, -0.2, 0.1, 0.4]) / 1.05**2)
    result = unrelu.invert(net, y)
    assert result.status == Status.EXACT_FIT
    assert result.parameters == pytest.approx({"a": 0.3, "b": -0.2, "c": 0.1, "d": 0.4, "gain": 1.05}, abs=1e-5)


# --- measurements by part ---------------------------------------------------------------------------------------------

NET = joined("relu deep")
TRUTH = np.array([0.3, -0.2, 0.1, 0.4])
X = NET.by_part(NET(TRUTH))
A = {"relu": RNG.standard_normal((6, 9)), "deep": np.array([1, 0, 1, 1, 1.0])}
MEASURED = {"relu": A["relu"] @ X["relu"], "deep": X["deep"]}
ROOT = RNG.standard_normal((10, 10))
COVARIANCE = 1e-3 * (ROOT @ ROOT.T / 10 + np.eye(10))


def chi_square(y, z, covariance):
    """r^T C^-1 r of all that is measured, the parts one after the other."""
    x = NET.by_part(NET(z))
    r = np.concatenate([y["relu"] - A["relu"] @ x["relu"], (y["deep"] - x["deep"])[A["deep"] > 0]])
    return r @ linalg.solve(covariance, r, assume_a="pos")


@pytest.mark.parametrize("size", [2**19, 0], ids=["chain", "joined"])
def test_one_covariance_across_parts_and_one_by_part(size, monkeypatch):
    monkeypatch.setattr("unrelu.wrappers.joined.LARGEST_COMPILED", size)
    net = joined("relu deep")
    y = {name: value + 0.03 * RNG.standard_normal(value.shape) for name, value in MEASURED.items()}
    across = unrelu.invert(net, y, operator=A, noise=unrelu.Gaussian(covariance=COVARIANCE))
    assert across.fun == pytest.approx(chi_square(y, across.z, COVARIANCE), rel=1e-9)
    assert across.fun <= chi_square(y, TRUTH, COVARIANCE)
    blocks = COVARIANCE[:6, :6], COVARIANCE[6:, 6:]
    noise = {
        "relu": unrelu.Gaussian(covariance=blocks[0]),
        "deep": np.sqrt(np.diag(linalg.block_diag([0], blocks[1]))[[1, 0, 2, 3, 4]]),
    }
    noise["deep"][1] = 1.0  # hidden
    apart_ = unrelu.invert(net, y, operator=A, noise=noise)
    independent = linalg.block_diag(blocks[0], np.diag(np.diag(blocks[1])))
    assert apart_.fun == pytest.approx(chi_square(y, apart_.z, independent), rel=1e-9)


def test_a_covariance_of_masked_parts_is_of_all_entries_or_of_the_measured_ones():
    masks = {"relu": np.array([1, 1, 0, 1, 1, 1, 0, 1, 1.0]), "deep": A["deep"]}
    seen = np.concatenate(list(masks.values())) > 0
    root = RNG.standard_normal((14, 14))
    whole = root @ root.T / 14 + np.eye(14)
    y = {name: value + 0.1 for name, value in X.items()}
    both = [
        unrelu.invert(NET, y, operator=masks, noise=unrelu.Gaussian(covariance=c))
        for c in (whole, whole[np.ix_(seen, seen)])
    ]
    np.testing.assert_allclose(both[0].z, both[1].z, atol=1e-6)
    assert both[0].fun == pytest.approx(both[1].fun, rel=1e-8)
    with pytest.raises(InputError, match=r"covariance\(13, 13\) is of 13 entries, an observation has 14"):
        unrelu.invert(NET, y, operator=masks, noise=unrelu.Gaussian(covariance=whole[:13, :13]))


def test_the_posterior_of_linear_parts_is_the_normal_one():
    lines = [RNG.standard_normal(shape) for shape in ((8, 2), (6, 2))]
    parts = [
        unrelu.from_arrays([w], activation="identity").named(n)
        for w, n in zip(lines, (["a", "b"], ["b", "c"]), strict=True)
    ]
    net = unrelu.join(u=parts[0], v=parts[1])
    root = RNG.standard_normal((14, 14))
    covariance = root @ root.T / 14 + np.eye(14)
    matrix = np.zeros((14, 3))
    matrix[:8, :2], matrix[8:, 1:] = lines
    y = RNG.standard_normal(14)
    precision = matrix.T @ np.linalg.solve(covariance, matrix) + np.eye(3)
    mean = np.linalg.solve(precision, matrix.T @ np.linalg.solve(covariance, y))
    given = {"u": y[:8], "v": y[8:]}
    found = unrelu.posterior(net, given, noise=unrelu.Gaussian(covariance=covariance), draws=400, chains=4)
    spread = np.sqrt(np.diag(np.linalg.inv(precision)))
    np.testing.assert_allclose(found.mean, mean, atol=0.15 * spread.max())
    np.testing.assert_allclose(found.std, spread, rtol=0.1)
    fit = unrelu.invert(net, given, noise=unrelu.Gaussian(covariance=covariance), prior=unrelu.Normal())
    np.testing.assert_allclose(fit.z, mean, atol=1e-5)
    np.testing.assert_allclose(fit.laplace().covariance, np.linalg.inv(precision), rtol=1e-4, atol=1e-8)


# --- what is refused --------------------------------------------------------------------------------------------------

SCALED = unrelu.extend(PARTS["relu"], scale=(0.5, 2))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "there is nothing to join: pass generators by name"),
        ({"u": PARTS["relu"], "v": PARTS["deep"].plain}, "of part 'v' have no names.*v=v.named(["),
        ({"u": PARTS["relu"].named(["a", "", "c"])}, "of part 'u' have no names.*3 in the order"),
        ({"u": torch.nn.Linear(2, 3)}, "network is a Linear"),
        ({"u": within(h=(0.5, 0.9)), "v": within(g=(0, 1)), "w": within(h=(50, 90), g=(0, 1))},
         "the domains of 'h', 0.5 to 0.9 in part 'u' and 50 to 90 in 'w', have nothing in common"),
        ({"u": SCALED, "v": unrelu.extend(PARTS["deep"], scale=unrelu.Normal(1, 0.1))},
         "'scale' is between 0.5 and 2 in part 'u', and Normal(1, 0.1) in 'v'"),
        ({"u": PARTS["relu"].plain.named(["a", "b", "offset"]), "v": unrelu.extend(PARTS["deep"], offset=(-1, 1))},
         "'offset' is a coordinate of the code in part 'u', and between -1 and 1 in 'v'"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined(parts, message):
    with pytest.raises(OptionError, match=re.escape(message).replace(r"\.\*", ".*")):
        unrelu.join(**parts)


def test_a_certificate_takes_observations_by_part():
    line = unrelu.from_arrays([[[1.0, 0.5], [0.0, 1.0]]], activation="identity").named(["a", "b"])
    net = unrelu.join(line=line, level=unrelu.from_arrays([[[2.0]]], activation="identity").named(["a"]))
    y = {"line": [1.0, 0.3], "level": [1.9]}
    r = unrelu.invert(net, y, "linf")
    c = unrelu.certify(net, y, r)
    assert c.upper == pytest.approx(r.residual("linf"))
    assert c.status.name == "OPTIMAL"
