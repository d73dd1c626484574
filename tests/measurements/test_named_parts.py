"""Observations, noise and operators by part of the output, against the same put together by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import sparse
from torch import nn

import unrelu
from tests.opaque_modules import made
from tests.support import random_network
from unrelu.errors import InputError
from unrelu.problem import Problem
from unrelu.runtime.streams import stream

# Eight entries, a table of 3 x 4, and a single number.
PARTS = {"curve": 8, "table": (3, 4), "depth": 1}
NET = random_network((3, 12, 21), bias=True).with_parts(PARTS)
RANDOM = stream("named parts")
Z = RANDOM.standard_normal((4, 3))
X = NET.by_part(NET(Z))
SIZES = {"curve": RANDOM.uniform(0.1, 1, 8), "table": RANDOM.uniform(0.1, 1, (3, 4)), "depth": 0.3}
ROOT = RANDOM.standard_normal((12, 12))
COVARIANCE = ROOT @ ROOT.T + np.eye(12)
CURVE = {"curve": np.zeros(8)}
OTHER = RANDOM.standard_normal((4, 3))


def noisy(*names):
    return {name: X[name] + 0.1 * RANDOM.standard_normal(X[name].shape) for name in names}


def chi_square(y, z, sizes):
    """The sum over parts of squared residuals, divided by the squares of their sizes."""
    found = NET.by_part(NET(z))
    return sum(np.square((y[name] - found[name]) / sizes[name]).reshape(len(z), -1).sum(axis=1) for name in y)


def test_parts_are_slices_of_the_flattened_output():
    assert NET.parts == {"curve": (8,), "table": (3, 4), "depth": (1,)}
    assert NET.names.places == {"curve": slice(0, 8), "table": slice(8, 20), "depth": slice(20, 21)}
    x = NET(Z)
    np.testing.assert_array_equal(X["table"], x[:, 8:20].reshape(4, 3, 4))
    np.testing.assert_array_equal(NET.by_part(x[0])["depth"], x[0, 20:])
    np.testing.assert_array_equal(NET.by_part(x.reshape(2, 2, 21))["curve"], x.reshape(2, 2, 21)[..., :8])
    assert "parts of an output: curve 8, table 3x4, depth 1" in str(NET)


@pytest.mark.parametrize("names", [("curve", "table", "depth"), ("depth", "curve"), ("table",)])
def test_the_objective_is_the_sum_over_the_observed_parts(names):
    y = noisy(*names)
    problem = Problem.build(NET, y, noise={name: SIZES[name] for name in names})
    np.testing.assert_allclose(problem.objective(OTHER), chi_square(y, OTHER, SIZES), rtol=1e-12)
    assert problem.observed.tolist() == [sum(X[name][0].size for name in names)] * 4


def test_errors_are_independent_from_part_to_part():
    y = noisy("curve", "table")
    noise = {"table": unrelu.Gaussian(covariance=COVARIANCE), "curve": 0.2}
    problem = Problem.build(NET, y, noise=noise)
    r = (y["table"] - NET.by_part(NET(OTHER))["table"]).reshape(4, 12)
    alone = np.einsum("bi,ij,bj->b", r, np.linalg.inv(COVARIANCE), r)
    wanted = alone + chi_square({"curve": y["curve"]}, OTHER, {"curve": 0.2})
    # Two factorisations of matrices with this condition.
    close = 100 * np.linalg.cond(COVARIANCE) * np.finfo(float).eps
    np.testing.assert_allclose(problem.objective(OTHER), wanted, rtol=close)


def test_one_model_for_all_parts_and_noise_by_part_for_an_array():
    y = noisy("curve", "depth")
    same = [Problem.build(NET, y, noise=noise) for noise in ("gaussian:0.2", {"curve": 0.2, "depth": 0.2})]
    assert str(same[0].noise) == str(same[1].noise) == "gaussian:0.2"
    np.testing.assert_array_equal(same[0].objective(OTHER), same[1].objective(OTHER))
    whole = noisy(*PARTS)
    flat = np.concatenate([whole[name].reshape(4, -1) for name in PARTS], axis=1)
    by_part, array = (Problem.build(NET, given, noise=SIZES) for given in (whole, flat))
    np.testing.assert_array_equal(by_part.objective(OTHER), array.objective(OTHER))


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array, unrelu.Matrix])
def test_matrices_by_part_measure_their_part(kind, correlated):
    window, seen = RANDOM.standard_normal((5, 12)), np.arange(8) != 3
    y = {"table": X["table"].reshape(4, 12) @ window.T + 0.1, "curve": X["curve"] - 0.2}
    covariance = COVARIANCE[:5, :5] if correlated else np.eye(5)
    noise = {"curve": 0.5, "table": unrelu.Gaussian(covariance=covariance) if correlated else 1.0}
    problem = Problem.build(NET, y, operator={"table": kind(window), "curve": unrelu.Mask(seen)}, noise=noise)
    found = NET.by_part(NET(OTHER))
    r, s = y["table"] - found["table"].reshape(4, 12) @ window.T, (y["curve"] - found["curve"])[:, seen] / 0.5
    wanted = np.einsum("bi,ij,bj->b", r, np.linalg.inv(covariance), r) + np.square(s).sum(axis=1)
    np.testing.assert_allclose(problem.objective(OTHER), wanted, rtol=1e-9)
    assert problem.y.shape == (4, 12)


def test_codes_are_found_and_residuals_are_told_by_part(tmp_path):
    y = {name: value[0] for name, value in noisy("curve", "table").items()}
    r = unrelu.invert(NET, y, noise={"curve": SIZES["curve"], "table": SIZES["table"]})
    found = NET.by_part(r.reconstruction)
    for name, value in y.items():
        np.testing.assert_allclose(r.residual("l2", part=name), np.linalg.norm(value - found[name]), rtol=1e-12)
    relative = [np.sqrt(np.mean(np.square((y[name] - found[name]) / SIZES[name]))) for name in y]
    shown = f"curve {relative[0]:.3g}, table {relative[1]:.3g} (residual / noise, root mean square)"
    assert re.search(rf"\n  by part +{re.escape(shown)}\n", str(r))
    np.testing.assert_allclose(r.fun, chi_square({n: v[None] for n, v in y.items()}, r.z[None], SIZES)[0], rtol=1e-9)
    r.save(tmp_path / "r.npz")
    again = unrelu.load_result(tmp_path / "r.npz", NET)
    assert str(again).split("effort")[0] == str(r).split("effort")[0]
    figure = r.plot(part="table")
    assert figure.axes[0].get_images()[0].get_array().shape[:2] == (3, 4)
    assert len(r.plot(part="curve").axes[0].lines[0].get_xdata()) == 8
    with pytest.raises(InputError, match="part='width' is unknown; those"):
        r.plot(part="width")
    with pytest.raises(InputError, match="part='width' is unknown; those of the observation are curve, table, depth"):
        r.residual("l2", part="width")
    assert np.isnan(r.residual("l2", part="depth"))  # not observed
    mixed = unrelu.invert(NET, NET(Z[0])[:1], "lm", operator=np.eye(21)[:1])
    with pytest.raises(InputError, match=r"operator= mixed them"):
        mixed.residual("l2", part="curve")


def test_posteriors_and_certificates_take_parts():
    net = unrelu.from_arrays([RANDOM.standard_normal((6, 2))], activation="identity").with_parts(
        {"a": 3, "b": 2, "c": 1}
    )
    flat = net([0.5, -0.3]) + 0.1
    y, seen = {"a": flat[:3], "c": flat[5]}, np.array([1, 1, 1, 0, 0, 1])
    options = {"draws": 200, "chains": 2, "seed": 4}
    p = unrelu.posterior(net, y, noise={"a": 0.3, "c": 0.3}, **options)
    q = unrelu.posterior(net, flat, operator=seen, noise="gaussian:0.3", **options)
    np.testing.assert_array_equal(p.z, q.z)
    c = unrelu.certify(net, y, noise={"a": "uniform:0.5", "c": "uniform:0.5"})
    d = unrelu.certify(net, flat, operator=seen, noise="uniform:0.5")
    np.testing.assert_allclose([c.lower, c.upper], [d.lower, d.upper], rtol=1e-6)
    assert c.verify(net, y)


NOISE = {"curve": 0.1, "table": 0.2, "depth": 0.3}


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ({"curves": np.zeros(8)}, {}, "y has the part 'curves'; those of the output are .*; did you mean"),
        ({}, {}, "y has no part; those of the output are curve, table, depth"),
        ({"curve": np.zeros(7)}, {}, r"y\['curve'\] has shape \(7,\); pass one observation of shape"),
        ({"curve": np.zeros((0, 8))}, {}, r"y\['curve'\] has shape \(0, 8\)"),
        ({"curve": "text"}, {}, r"y\['curve'\]='text' is text"),
        ({"curve": np.zeros((2, 8)), "depth": np.zeros(3)}, {}, r"different numbers .* \{'curve': 2, 'depth': 3"),
        ({"curve": np.full(8, np.nan)}, {}, "y has NaN or infinite entries"),
        (CURVE, {"noise": {"depth": 1}}, "noise= is that of depth, and y has curve; state it"),
        (CURVE, {"noise": {"curve": 1, "dept": 1}}, "noise has the part 'dept'; those"),
        (CURVE | {"depth": 1}, {"noise": {"curve": 1}}, "noise= is that of curve, and y has curve, depth"),
        (CURVE, {"noise": {"curve": -1.0}}, "noise=gaussian:-1.0: .* must be finite and above 0"),
        (CURVE, {"noise": {"curve": np.ones(7)}}, r"noise of part 'curve': .* has shape \(7,\)"),
        (CURVE, {"noise": {"curve": "poisson"}}, "Gaussian for every part, or uniform for every part"),
        (CURVE | {"depth": 1}, {"noise": {"curve": 1, "depth": "uniform:1"}}, "got curve: gaussian:1"),
        ({"curve": np.zeros((2, 8)), "table": np.zeros((2, 3, 4))},
         {"noise": {"curve": np.ones((2, 8)), "table": unrelu.Gaussian(covariance=COVARIANCE)}},
         "a covariance, which all observations share"),
        ({"curve": np.zeros(8), "table": np.zeros((3, 4))},
         {"noise": {"curve": np.full(8, np.inf), "table": unrelu.Gaussian(covariance=COVARIANCE)}},
         "hide entries of which nothing is known by operator="),
        (CURVE, {"operator": {"depth": [1]}}, "operator= has the part 'depth', and y has not"),
        (CURVE, {"operator": {"curve": np.ones((3, 9))}}, r"part 'curve': .* has shape \(3, 9\)"),
        (CURVE, {"operator": {"curve": lambda x: x**2}}, "part 'curve' must be a matrix, or one mask"),
        (CURVE, {"operator": np.ones(21)}, "operator= must be a dictionary of masks and matrices"),
        (np.zeros(3), {"operator": np.ones((3, 21)), "noise": NOISE}, "is given by part, and y is not"),
        (np.zeros(21), {"operator": unrelu.Matrix(np.eye(21)), "noise": NOISE}, "is given by part, and y is not"),
        (np.zeros(21), {"operator": lambda x: x**2, "noise": NOISE}, "is given by part, and y is not"),
        (np.zeros(21), {"operator": {"curve": np.ones(8)}}, "y is not .*: pass a dictionary by part as y"),
    ],
)  # fmt: skip
def test_what_cannot_be_put_together(y, options, message):
    with pytest.raises(InputError, match=message):
        Problem.build(NET, y, **options)


def test_runs_take_parts_and_calibrations_whole_outputs(tmp_path):
    module = made(lambda: nn.Linear(2, 4))
    net = unrelu.from_torch(module).with_parts({"a": 3, "b": 1})
    y = net.by_part(net(Z[:, :2]))
    parts = unrelu.run(net, {"a": y["a"]}, tmp_path / "parts", "lm", noise={"a": 0.1}, workers=1)
    alone = unrelu.invert(net, {"a": y["a"]}, "lm", noise={"a": 0.1})
    np.testing.assert_allclose(parts.read("codes"), alone.z, atol=1e-9)
    with pytest.raises(InputError, match=r"data has one observation of each part \(a: \(3,\)\); a data set"):
        unrelu.run(net, {"a": y["a"][0]}, "unused")
    run = unrelu.run(net, np.zeros((2, 4)), tmp_path / "out", "lm", noise={"a": 1, "b": 2}, workers=1)
    assert run.manifest["about"]["noise"] == str(unrelu.Gaussian([1, 1, 1, 2]))
    with pytest.raises(InputError, match="noise by part goes with invert, posterior, run and certify"):
        unrelu.calibrate(net, noise={"a": 1})
