"""The plain VAE decoders of the studies: their form, and that they draw digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrelu import zoo
from unrelu.runtime.streams import stream
from unrelu_studies.kit.trained_generators import PLAIN_VAES, plain_vae


@pytest.mark.parametrize("name", PLAIN_VAES)
def test_a_decoder_has_the_form_of_the_paper(name):
    network = plain_vae(name)
    assert [(layer.n_in, layer.n_out, str(layer.activation)) for layer in network.layers] == [
        (20, 60, "relu"),
        (60, 784, "relu"),
    ]
    assert not any(layer.bias().any() for layer in network.layers)
    assert network.dtype == torch.float64


@pytest.mark.parametrize("name", PLAIN_VAES)
def test_samples_look_like_digits(name):
    """Paler than digits, but of their shape: the cosine with the nearest real digit, and little ink near the border.

    A real digit and its nearest other one have a median cosine of .73, a sample with permuted pixels one of .22.
    """
    real = zoo.observations("mnist-relu").reshape(-1, 784)
    drawn = plain_vae(name)(stream("test of plain VAEs", name).standard_normal((200, 20)))
    permuted = stream("test of plain VAEs, permutation", name).permuted(drawn, axis=1)
    assert np.median(nearest_cosines(drawn, real)) > 0.55
    assert np.median(nearest_cosines(permuted, real)) < 0.3
    assert drawn.reshape(-1, 28, 28)[:, :2].mean() < 0.2 * drawn.mean()
    assert 0.3 * real.mean() < drawn.mean() < real.mean()


def nearest_cosines(images, real):
    """Of each image and the real digit in the most similar direction, (B,)."""
    unit, real_unit = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (images, real))
    return (unit @ real_unit.T).max(axis=1)
