"""The generators that come with the package: complete, documented, and digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrelu import zoo
from unrelu.errors import ModelError
from unrelu.zoo.architectures import ARCHITECTURES


@pytest.mark.parametrize("name", zoo.names())
def test_a_generator_draws_what_its_pytorch_module_draws(name):
    network = zoo.load(name)
    module = ARCHITECTURES[name]()
    state = module.state_dict()
    weights = np.load(zoo.__path__[0] + f"/weights/{name}.npz", allow_pickle=False)
    state.update({key: torch.from_numpy(weights[key]) for key in weights.files})
    module.load_state_dict(state)
    module = module.eval().double()
    z = np.random.default_rng(0).standard_normal((5, network.latent_dim))
    expected = module(torch.from_numpy(z)).detach().numpy()
    np.testing.assert_allclose(network(z), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", zoo.names())
def test_outputs_look_like_digits(name):
    """Ink in the middle, background at the border, about as much ink as real digits have, and variety."""
    network = zoo.load(name)
    real = zoo.observations(name).reshape(-1, 28, 28)
    drawn = network(np.random.default_rng(1).standard_normal((200, 20))).reshape(-1, 28, 28)
    background = real.min()
    assert np.abs(drawn[:, :2] - background).mean() < 0.05
    ink, real_ink = (a.mean() - background for a in (drawn, real))
    assert 0.6 * real_ink < ink < 1.5 * real_ink
    # The mean real digit of each class explains real digits to this error; a sample must be about as close to one.
    nearest = ((drawn[:, None] - real[None]) ** 2).mean(axis=(2, 3)).min(axis=1)
    between = ((real[:, None] - real[None]) ** 2).mean(axis=(2, 3))
    np.fill_diagonal(between, np.inf)
    assert np.median(nearest) < 1.2 * np.median(between.min(axis=1))
    assert drawn.std(axis=0).max() > 0.5 * real.std(axis=0).max()


def test_digits_are_a_hundred_held_out_ones_ten_of_each():
    images, labels = zoo.digits()
    assert images.shape == (100, 28, 28)
    assert images.min() == 0
    assert images.max() == 1
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 10))


def test_the_architectures_are_those_promised():
    shapes = {
        name: [(layer.n_in, layer.n_out, str(layer.activation)) for layer in zoo.load(name).layers]
        for name in zoo.names()
    }
    assert shapes["mnist-relu"] == [(20, 60, "relu"), (60, 784, "relu")]
    leaky = "leaky_relu:0.1"
    assert shapes["mnist-leaky"] == [(20, 200, leaky), (200, 500, leaky), (500, 784, leaky)]
    assert shapes["mnist-sigmoid"] == [(20, 400, "relu"), (400, 784, "sigmoid")]
    assert shapes["mnist-dcgan"] == [(20, 3136, "relu"), (3136, 6272, "relu"), (6272, 784, "tanh")]
    assert not any(layer.bias().any() for layer in zoo.load("mnist-relu").layers)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match="mnist-relu"):
        zoo.load("mnist")
