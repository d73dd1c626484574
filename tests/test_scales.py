"""Results do not depend on the units of weights and data; the figures for every network are those of fuzz/scales.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

import unrelu
from scales import BROKEN, cases, random_network, row, scaled
from unrelu.errors import InputError, ModelError, SolverError
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.measurements.working_units import in_working_units
from unrelu.methods import METHODS
from unrelu.models.activations import Activation
from unrelu.result import Inversion, Status

SMALL = random_network((2, 10, 30), "relu", 3)
LAST = len(SMALL.layers) - 1
RNG = np.random.default_rng(4)
Z = RNG.standard_normal((3, 2))
Y = SMALL(Z)
FAR = (-150, -12, 12, 150)
# The conditions of these networks are below 100, so codes that fit exactly agree to a few thousand roundings.
SAME = 1e-9


def kept(found):
    return {name: found[name] for name in BROKEN if found[name]}


@pytest.mark.parametrize("where", ["output", "hidden"])
@pytest.mark.parametrize("method", METHODS)
def test_no_method_depends_on_units(method, where):
    case = next(case for case in cases(SMALL, 0) if case[0] == where)
    assert not kept(row(SMALL, "", method, case, FAR))  # all powers: python fuzz/scales.py


@pytest.mark.parametrize("where", ["operator", "uniform", "gaussian"])
@pytest.mark.parametrize("method", ["auto", "least_squares"])
def test_nor_with_measurements_and_noise(method, where):
    case = next(case for case in cases(SMALL, 0) if case[0] == where)
    found = row(SMALL, "", method, case, FAR)
    assert not found or not kept(found)


@pytest.mark.parametrize("power", FAR)
def test_equilibration_rounds_nothing(power):
    network = scaled(scaled(SMALL, LAST, 10.0**power), 0, 1e40, back=True)
    found = in_working_units(network)
    assert np.array_equal(np.ldexp(found.network(Z), -found.units.output), network(Z))
    assert 1e-3 < found.network.typical_output < 1e3
    assert in_working_units(found.network).network is found.network


def test_a_sigmoid_keeps_its_unit():
    """Only the layers before and behind it can be brought to another."""
    parts = [step for layer in SMALL.layers for step in (*layer.affine.steps, Activation("sigmoid"))]
    network = unrelu.Network.chain(parts, (2,))
    last = scaled(unrelu.Network.chain([*parts[:-1], Activation("identity")], (2,)), LAST, 1e120)
    assert in_working_units(network).network is network
    assert in_working_units(last).units.layers[0] == 0
    assert abs(in_working_units(last).units.output + np.log2(1e120)) < 5
    found = unrelu.invert(last, last(Z), "lm")
    assert found.status.tolist() == unrelu.invert(network, network(Z), "lm").status.tolist()


@pytest.mark.parametrize("shift", [-300.0, 300.0])
def test_the_scale_of_an_exponential_is_in_its_bias(shift):
    parts = [*SMALL.layers[0].affine.steps, Activation("relu"), *SMALL.layers[1].affine.steps, Activation("exp")]
    network = unrelu.Network.chain(parts, (2,))
    last = network.layers[-1]
    step = last.affine.steps[0]
    moved = replace(step, bias=(0 if step.bias is None else step.bias) + torch.full((30,), shift, dtype=torch.float64))
    network = replace(network, layers=(network.layers[0], replace(last, affine=replace(last.affine, steps=(moved,)))))
    found = in_working_units(network)
    # The bias has been rounded to eps of its size, which exp turns into a relative error.
    rounded = 4 * abs(shift) * 2.0**-52
    np.testing.assert_allclose(np.ldexp(found.network(Z), -found.units.output), network(Z), rtol=rounded)
    assert abs(found.units.output + shift / np.log(2)) < 20
    z = Z[0] / 4
    assert unrelu.invert(network, network(z), seed=0).status is Status.EXACT_FIT


@pytest.mark.parametrize("power", [-120, 120])
def test_of_a_generator_without_layers_the_output_has_a_unit(power):
    factor = 10.0**power

    class Opaque(torch.nn.Module):
        def forward(self, z):
            h = torch.cat([z, z.sin(), z[:, :1] * z], dim=1)
            return factor * torch.cat([h, h.square()], dim=1)

    network = unrelu.from_torch(Opaque(), latent_shape=(2,))
    found = unrelu.invert(network, network(Z), "lm", z0=Z + 0.01)
    assert found.success.all()
    np.testing.assert_allclose(found.z, Z, rtol=SAME)
    assert found.residual("l2").max() < 1e-9 * factor


def test_weights_beyond_single_precision_are_named():
    with pytest.raises(ModelError, match=r"keep it in torch\.float64"):
        unrelu.invert(scaled(SMALL, LAST, 1e50).to(torch.float32), Y, "lm")


@pytest.mark.parametrize(("kind", "power"), [("mask", -150), ("matrix", 150), ("sparse", -12), ("pair", 12)])
def test_measurements_may_have_any_unit(kind, power):
    factor, matrix = 10.0**power, np.random.default_rng(1).standard_normal((9, 30))
    mask = np.arange(30) % 2 == 0
    operator = {
        "mask": mask, "matrix": unrelu.Matrix(factor * matrix), "sparse": sparse.csr_array(factor * matrix),
        "pair": (lambda x: factor * (matrix @ x), lambda r: factor * (matrix.T @ r)),
    }[kind]  # fmt: skip
    network = scaled(SMALL, LAST, factor) if kind == "mask" else SMALL
    y = np.where(mask, network(Z), np.nan) if kind == "mask" else factor * Y @ matrix.T
    found = unrelu.invert(network, y, "lm", operator=operator, z0=Z + 0.01)
    assert found.success.all()
    np.testing.assert_allclose(found.z, Z, rtol=1e-8)


@pytest.mark.parametrize("power", FAR)
def test_every_number_is_in_the_units_of_the_user(power):
    unit, noisy = 10.0**power, Y + 0.1 * np.random.default_rng(2).uniform(-1, 1, Y.shape)
    network = scaled(SMALL, LAST, unit)
    here = unrelu.invert(SMALL, noisy, "lm", noise="gaussian:0.1", norm="l2", prior=0.01)
    there = unrelu.invert(network, noisy * unit, "lm", noise=f"gaussian:{0.1 * unit!r}", prior=0.01 * unit**2)
    assert there.problem.network is network
    np.testing.assert_allclose(there.reconstruction / unit, here.reconstruction, rtol=1e-6)
    np.testing.assert_allclose(there.p_value, here.p_value, rtol=1e-3)  # its directions are of single precision
    np.testing.assert_allclose(there.fun / unit / unit, here.fun, rtol=1e-6)
    for norm in ("l2", "l1", "linf"):
        np.testing.assert_allclose(there.residual(norm) / unit, here.residual(norm), rtol=1e-6)


@pytest.fixture(scope="module", params=[-150, 150])
def certified(request):
    unit, noisy = 10.0**request.param, np.maximum(Y[0] + 0.3 * np.random.default_rng(3).uniform(-1, 1, 30), 0)
    network = scaled(SMALL, LAST, unit)
    here = unrelu.certify(SMALL, noisy, noise="uniform:0.3")
    return unit, here, unrelu.certify(network, noisy * unit, noise=f"uniform:{0.3 * unit!r}"), network, noisy * unit


def test_certificates_do_not_depend_on_units(certified, tmp_path):
    unit, here, there, network, y = certified
    assert there.status is here.status
    np.testing.assert_allclose([there.lower / unit, there.upper / unit], [here.lower, here.upper], rtol=2e-6)
    np.testing.assert_allclose(there.box, here.box, rtol=1e-6)
    there.save(tmp_path / "c.npz")
    for found in (there, unrelu.Certificate.load(tmp_path / "c.npz")):
        assert found.flaw(network, y) is None


def test_a_certificate_in_other_units_is_refused(certified):
    _, _, found, network, y = certified
    for exponents in ((), (1, *found.exponents[1:]), found.exponents[:-1], (0, 5000), (0, -5000)):
        forged = replace(found, exponents=exponents)
        assert forged.flaw(network, y) is not None


@pytest.mark.parametrize("method", ["auto", "linf", "gradient_descent"])
def test_noise_that_overflows_is_refused_and_noise_that_vanishes_works(method):
    for noise in ("gaussian:1e300", "uniform:1e300"):
        with pytest.raises(InputError, match="times what the generator puts out"):
            unrelu.invert(SMALL, Y, method, noise=noise)
    options = {"max_iterations": 5} if method == "gradient_descent" else {}
    for noise in ("gaussian:1e-300", "uniform:1e-300", "uniform:0"):
        found = unrelu.invert(SMALL, Y, method, noise=noise, **options)
        assert np.isfinite(found.p_value).all()


def test_data_far_beyond_the_generator_are_refused():
    with pytest.raises(InputError, match=r"in observation 0, .*scale it, or leave it out"):
        unrelu.invert(SMALL, 1e120 * Y, "lm")
    with pytest.raises(InputError, match=r"in observation 0, .*scale it, or leave it out"):
        unrelu.certify(SMALL, 1e120 * Y[0])
    with pytest.raises(InputError, match="prior=1e"):
        unrelu.invert(scaled(SMALL, LAST, 1e-150), Y * 1e-150, "lm", prior=1e200)


@pytest.mark.parametrize("error", [SolverError, np.linalg.LinAlgError, torch.linalg.LinAlgError, FloatingPointError])
def test_an_observation_that_fails_leaves_the_others(monkeypatch, error):
    works = Layerwise.__call__

    def breaks(self, problem):
        if (problem.y == Y[1]).all(axis=1).any():
            raise error("it broke")
        return works(self, problem)

    monkeypatch.setattr(Layerwise, "__call__", breaks)
    found = unrelu.invert(SMALL, Y, "exact")
    assert [str(status) for status in found.status] == ["EXACT_FIT", "ERROR", "EXACT_FIT"]
    assert found.message[1] == "could not be inverted: it broke"
    assert found.success.tolist() == [True, False, True]
    assert np.isnan(found.z[1]).all()
    np.testing.assert_allclose(found.z[[0, 2]], Z[[0, 2]], rtol=SAME)
    alone = unrelu.invert(SMALL, Y[1], "exact")
    assert alone.status is Status.ERROR
    assert not alone.success


def test_no_number_that_is_none_is_a_success():
    """Whatever a method claims of itself."""

    def sure(problem):
        z = np.array([[np.nan] * 2, [np.inf] * 2, [1e308] * 2])
        return Inversion.of(problem, z, method="sure", status=Status.EXACT_FIT, confidence=1.0)

    for noise in (None, "gaussian:1", "uniform:1", "outliers:0.1"):
        found = unrelu.invert(SMALL, Y + 0.1, sure, noise=noise)
        assert not found.success.any()
        assert not found.identifiable[:2].any()


def test_outputs_beyond_double_precision_are_told():
    rng = np.random.default_rng(0)
    network = unrelu.from_arrays([1e-120 * rng.standard_normal(shape) for shape in ((8, 3), (8, 8), (20, 8))])
    with pytest.raises(InputError, match=r"the generator's outputs, as they are measured, are of the size 1e-3\d\d"):
        unrelu.invert(network, network(np.ones(3)))
