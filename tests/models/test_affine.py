"""Affine steps, their composition and their matrices, against the steps applied one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from tests.support import compose, step_examples, tensor, unfolded
from unrelu.errors import ModelError
from unrelu.models.affine import Affine, Conv, Dense, LinearOperation, Reshape, Scale

STEPS = step_examples()
each = pytest.mark.parametrize("name", STEPS)


def codes(affine: Affine, batch: int = 3) -> torch.Tensor:
    return tensor(np.random.default_rng(1), batch, affine.n_in)


@each
@pytest.mark.parametrize("constant", [True, False])
def test_composing_changes_nothing(name, constant):
    affine, steps, shape = compose(name)
    h = codes(affine)
    expected = unfolded(steps, h, shape, constant)
    assert expected.shape == (3, affine.n_out)
    torch.testing.assert_close(affine.apply(h, constant), expected, rtol=1e-12, atol=1e-12)


@each
def test_matrix_and_bias_write_the_map_out(name):
    affine, _, _ = compose(name)
    h = codes(affine)
    matrix, bias = affine.matrix(), affine.bias()
    assert matrix.shape == (affine.n_out, affine.n_in)
    assert bias.shape == (affine.n_out,)
    np.testing.assert_allclose((matrix @ h.numpy().T).T + bias, affine.apply(h), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("nothing", []),
        ("dense_dense", [Dense]),
        ("dense_dense_no_bias", [Dense]),
        ("dense_scale", [Dense]),
        ("dense_reshape_scale", [Dense, Reshape]),
        ("scale_dense", [Dense]),
        ("scale_scale", [Scale]),
        ("conv_scale", [Conv]),
        ("grouped_conv_scale", [Conv]),
        ("transposed_scale", [Conv]),
        ("conv_number", [Conv]),
        ("conv_scale_of_columns", [Conv, Scale]),
        ("reshape_reshape", [Reshape]),
    ],
)
def test_what_can_be_merged_is_merged(name, left):
    assert [type(step) for step in compose(name)[0].steps] == left


@pytest.mark.parametrize("name", ["dense", "dense_reshape_scale", "dense_on_the_last_axis", "scale_dense"])
def test_matrices_of_dense_maps_are_dense(name):
    assert isinstance(compose(name)[0].matrix(), np.ndarray)


@pytest.mark.parametrize("name", ["nothing", "scale", "conv", "pool", "generator"])
def test_matrices_of_other_maps_are_sparse(name):
    assert isinstance(compose(name)[0].matrix(), sparse.csr_array)


def test_a_wide_map_is_written_out_in_pieces():
    affine = Affine.compose([LinearOperation("aten.avg_pool2d.default", ((1, 2),))], (1, 1, 600))
    expected = sparse.kron(sparse.eye_array(300), np.full((1, 2), 0.5))
    assert abs(affine.matrix() - expected).max() == 0


@pytest.mark.parametrize(
    ("steps", "shape", "message"),
    [
        ([Dense(torch.ones(4, 3))], (5,),
         r"Dense with a weight of shape \(4, 3\) does not fit an input of shape \(5,\)"),
        ([Conv(torch.ones(4, 3, 3, 3))], (2, 5, 5), r"Conv with a weight of shape .* input of shape \(2, 5, 5\)"),
        ([Reshape((2, 4))], (6,), r"Reshape to \(2, 4\) does not fit an input of shape \(6,\)"),
        ([Scale(torch.ones(3, 4), torch.ones(4))], (4,), r"Scale with .* does not fit an input of shape \(4,\)"),
        ([Dense(torch.tensor([[1.0, torch.nan]]))], (2,), "1 of 2 entries of a Dense weight are NaN or infinite"),
        ([Scale(torch.ones(1), torch.full((1,), torch.nan))], (1,), "1 of 1 entries of a Scale shift"),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_used_are_refused(steps, shape, message):
    with pytest.raises(ModelError, match=message):
        Affine.compose(steps, shape)


def test_a_transposed_convolution_of_one_position_is_pytorchs():
    random = torch.Generator().manual_seed(5)
    weight = torch.randn(4, 3, 2, 5, generator=random, dtype=torch.float64)
    bias = torch.randn(3, generator=random, dtype=torch.float64)
    x = torch.randn(6, 4, 1, 1, generator=random, dtype=torch.float64)
    for options in ({}, {"stride": (2, 3)}, {"padding": (0, 1)}, {"dilation": (2, 2)}):
        expected = torch.nn.functional.conv_transpose2d(x, weight, bias, **options)
        torch.testing.assert_close(Conv(weight, bias, transposed=True, **options).apply(x), expected)
