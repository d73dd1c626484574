"""Standardised inputs and outputs against scikit-learn's own transforms, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from torch import nn

import unrelu
from tests.loaders.loader_checks import layers_reproduce
from tests.opaque_modules import Residual, made
from unrelu.errors import ModelError
from unrelu.loaders import from_torch
from unrelu.wrappers.standardisation import StandardisedGenerator, standardised

RANDOM = np.random.default_rng(0)
CODES = RANDOM.standard_normal((40, 3)) * [1e-9, 1.0, 70.0] + [2e-9, 0.3, 70.0]
OUTPUTS = RANDOM.standard_normal((40, 9)) @ RANDOM.standard_normal((9, 9)) + 5
NETWORKS = {
    activation: unrelu.from_arrays(
        [RANDOM.standard_normal((6, 3)), RANDOM.standard_normal((9, 6))], activation=["relu", activation]
    )
    for activation in ("identity", "sigmoid")
}
SCALERS = {
    "standard": StandardScaler(),
    "no mean": StandardScaler(with_mean=False),
    "no std": StandardScaler(with_std=False),
    "neither": StandardScaler(with_mean=False, with_std=False),
    "minmax": MinMaxScaler((-1, 1)),
    "maxabs": MaxAbsScaler(),
    "robust": RobustScaler(),
    "pca": PCA(),
    "whitened": PCA(whiten=True),
    "nothing": FunctionTransformer(),
    "pipeline": make_pipeline(StandardScaler(), "passthrough", PCA(whiten=True), MinMaxScaler()),
}


@pytest.mark.parametrize("activation", NETWORKS)
@pytest.mark.parametrize("scaler", SCALERS)
def test_inputs_and_outputs_of_scikit_learn(activation, scaler):
    network, ours = NETWORKS[activation], SCALERS[scaler]
    # One after the other: fitting to the outputs forgets the inputs.
    net = standardised(network, ours.fit(CODES), None, None)
    np.testing.assert_allclose(net(CODES), network(ours.transform(CODES)), rtol=1e-9, atol=1e-9)
    assert len(net.layers) == 2
    both = standardised(net, None, ours.fit(OUTPUTS), None)
    np.testing.assert_allclose(both(CODES), ours.inverse_transform(net(CODES)), rtol=1e-9, atol=1e-9)
    assert len(both.layers) == (2 if activation == "identity" or scaler == "nothing" else 3)
    layers_reproduce(both)


@pytest.mark.parametrize("activation", NETWORKS)
@pytest.mark.parametrize("base", [10, np.e, np.float32(2), 0.5])
def test_logarithms_become_powers(activation, base):
    network = NETWORKS[activation].named(["a", "b", "c"])
    net = standardised(network, None, (0.5, 0.1), None, base)
    np.testing.assert_allclose(net(CODES), float(base) ** (0.5 + 0.1 * network(CODES)), rtol=1e-12)
    assert len(net.layers) == (2 if activation == "identity" else 3)
    assert net.coordinate_names == ("a", "b", "c")
    layers_reproduce(net)


@pytest.mark.parametrize("base", [1, 0, -10, np.inf, np.nan, True, "10", [10], 10j, np.complex128(10)])
def test_refused_bases(base):
    with pytest.raises(ModelError, match=r"output_log=.* must be the base of the logarithms that the outputs are"):
        standardised(NETWORKS["identity"], None, None, None, base)


def test_a_product_through_a_few_components_stays_one():
    """A matrix (200, 30) has more entries than its factors (200, 4) and (4, 30)."""
    weights = [RANDOM.standard_normal((30, 3)), RANDOM.standard_normal((4, 30))]
    network = unrelu.from_arrays(weights, activation="identity")
    basis = RANDOM.standard_normal((4, 200))
    net = standardised(network, None, None, (basis, 1.0))
    np.testing.assert_allclose(net(CODES[:, :3]), network(CODES[:, :3]) @ basis + 1, rtol=1e-9)
    assert net.layers[-1].kind == "Dense + Dense"
    assert net.layers[-1].parameters == 200 + 200 * 4 + 4 * 30
    layers_reproduce(net)


def test_pairs_are_the_formula():
    network = NETWORKS["identity"]
    mean, std = CODES.mean(axis=0), CODES.std(axis=0)
    basis, offset = RANDOM.standard_normal((9, 20)), RANDOM.standard_normal(20)
    net = standardised(network, (mean, torch.from_numpy(std)), (2.0, np.arange(1.0, 10.0)), (basis, offset))
    wanted = offset + (2.0 + np.arange(1.0, 10.0) * network((CODES - mean) / std)) @ basis
    np.testing.assert_allclose(net(CODES), wanted, rtol=1e-10)
    assert [str(layer) for layer in net.layers] == ["Dense 3 -> 6, relu", "Dense 6 -> 20, identity"]


def test_a_basis_is_a_pca_or_its_parts():
    pca = PCA(9).fit(RANDOM.standard_normal((50, 20)))
    network = NETWORKS["sigmoid"]
    for basis in (pca, (pca.components_, pca.mean_)):
        net = standardised(network, None, None, basis)
        np.testing.assert_allclose(net(CODES), pca.inverse_transform(network(CODES)), rtol=1e-10)
        assert [layer.n_out for layer in net.layers] == [6, 9, 20]


def test_shapes_of_pictures_are_kept():
    torch.manual_seed(0)
    module = nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.ReLU()).double().eval()
    plain = unrelu.from_torch(module, latent_shape=(2, 2, 1))
    mean, std = RANDOM.standard_normal((3, 3, 2)), RANDOM.uniform(1, 2, (3, 3, 2))
    net = standardised(plain, (1.0, 2.0), (mean, std), None)
    z = RANDOM.standard_normal((2, 4))
    np.testing.assert_allclose(net(z), mean + std * plain((z - 1) / 2), rtol=1e-10)
    assert net.output_shape == (3, 3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_scale": (0.0, 0.0)},
         r"input_scale: std has 1 entries that are not positive, the first is std\[0\] = 0; use 1"),
        ({"output_scale": (0.0, [1.0, np.nan])}, "1 of 2 entries of output_scale: std are NaN or infinite"),
        ({"output_scale": (0.0, np.ones(3))}, r"output_scale does not fit .*of shape \(3,\).*an input of shape \(9,\)"),
        ({"input_scale": (1.0,)}, r"input_scale has 1 entries; pass a pair \(mean, std\)"),
        ({"input_scale": StandardScaler()},
         "input_scale: StandardScaler is not fitted, clips, or is no StandardScaler"),
        ({"output_scale": FunctionTransformer(np.log)},
         "output_scale: FunctionTransformer is not fitted, clips, or is no"),
        ({"output_scale": make_pipeline(StandardScaler(), FunctionTransformer(np.log))},
         "output_scale, step 'standardscaler': StandardScaler is not fitted"),
        ({"output_basis": (np.ones((9, 20)), np.ones(9))},
         r"output_basis: components have shape \(9, 20\), and mean \(9,\); pass"),
        ({"output_basis": np.ones((9, 20))}, r"output_basis: ndarray is no pair .*; pass a pair"),
    ],
)  # fmt: skip
def test_refusals(options, message):
    given = {"input_scale": None, "output_scale": None, "output_basis": None} | options
    with pytest.raises(ModelError, match=message):
        standardised(NETWORKS["identity"], **given)


def test_scales_surround_a_generator_without_known_layers():
    body = from_torch(made(lambda: Residual(3, n=8)), 3)
    mean, std = np.array([0.1, 0.3, 70.0]), np.array([0.05, 0.1, 5.0])
    basis = RANDOM.standard_normal((8, 20)), RANDOM.standard_normal(20)
    z = mean + std * RANDOM.standard_normal((4, 3))
    coefficients = 2.0 + 0.5 * body((z - mean) / std)
    scaled = standardised(body, (mean, std), (2.0, 0.5), None)
    projected = standardised(body, (mean, std), (2.0, 0.5), basis)
    np.testing.assert_allclose(scaled(z), coefficients, rtol=1e-12)
    np.testing.assert_allclose(projected(z), basis[1] + coefficients @ basis[0], rtol=1e-10)
    assert isinstance(scaled, StandardisedGenerator)
    assert str(scaled).startswith("StandardisedGenerator 3 -> 8: affine maps around\nOpaqueNetwork 3 -> 8: ")
    assert standardised(body, None, None, None) is body
    np.testing.assert_allclose(scaled.to(torch.float32)(z), coefficients, rtol=1e-4)
    np.testing.assert_allclose(scaled.jacobian(z), 0.5 * body.jacobian((z - mean) / std) / std, rtol=1e-9)
    r = unrelu.invert(scaled, coefficients[0], "lm", z0=mean)
    np.testing.assert_allclose((r.z - z[0]) / std, 0, atol=1e-5)


@pytest.mark.parametrize("body", [NETWORKS["identity"], from_torch(made(lambda: Residual(3, n=9)), 3)])
def test_logarithms_of_scaled_outputs_keep_named_parts(body):
    net = standardised(body.with_parts({"a": 4, "b": (5,)}), (0.0, 2.0), (1.0, 0.5), None, 10)
    z = RANDOM.standard_normal((4, 3))
    np.testing.assert_allclose(net(2 * z), 10 ** (1 + 0.5 * body(z)), rtol=1e-11)
    steps = 1e-6 * np.eye(3)
    slopes = np.stack([(net(z + step) - net(z - step)) / 2e-6 for step in steps], axis=2)
    np.testing.assert_allclose(net.jacobian(z), slopes, atol=1e-6 * np.abs(slopes).max())
    assert net.by_part(net(z))["b"].shape == (4, 5)


@pytest.mark.parametrize("opaque", [False, True])
def test_the_rounding_of_a_module_in_half_precision_is_not_that_of_its_scaled_outputs(opaque):
    layers = [torch.nn.Linear(3, 8), torch.nn.Softplus() if opaque else torch.nn.ReLU(), torch.nn.Linear(8, 5)]
    plain = unrelu.from_torch(torch.nn.Sequential(*layers).bfloat16().eval(), 3)
    assert plain.rounding is not None
    assert standardised(plain, (0.0, 2.0), None, None).rounding == plain.rounding
    assert standardised(plain, None, (0.0, 1000.0), None).rounding is None
