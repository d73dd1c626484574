"""Modules as networks: values, Jacobians and layer matrices are PyTorch's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from tests.loaders.loader_checks import check_same_as_module, evaluation, layers_reproduce
from unrelu.loaders import from_torch
from unrelu.models.affine import Conv, Dense


def seq(*modules):
    return nn.Sequential(*modules)


def dcgan(width=4):
    def block(n, m, *geometry):
        return seq(nn.ConvTranspose2d(n, m, *geometry, bias=False), nn.BatchNorm2d(m), nn.ReLU(True))

    return seq(
        block(6, 2 * width, 4, 1, 0),
        block(2 * width, width, 4, 2, 1),
        seq(nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False), nn.Tanh()),
    )


def vae_decoder():
    return seq(
        nn.Linear(3, 2 * 4 * 4),
        nn.Dropout(0.3),
        nn.Unflatten(1, (2, 4, 4)),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Dropout2d(),
        nn.BatchNorm2d(3),
        nn.LeakyReLU(0.2),
        nn.UpsamplingBilinear2d(scale_factor=2),
        nn.Conv2d(3, 1, 3, padding="same"),
        nn.Sigmoid(),
        nn.Flatten(),
    )


SEQUENTIALS = {
    "mlp": lambda: seq(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 9, bias=False), nn.ReLU()),
    "mlp with batch norms": lambda: seq(
        nn.BatchNorm1d(3),
        nn.Linear(3, 7),
        nn.BatchNorm1d(7),
        nn.Tanh(),
        nn.Linear(7, 5),
        nn.BatchNorm1d(5, affine=False),
    ),
    "batch norm after the activation": lambda: seq(nn.Linear(3, 7), nn.ReLU(), nn.BatchNorm1d(7), nn.Linear(7, 4)),
    "dcgan": dcgan,
    "vae": vae_decoder,
    "groups, dilation, output padding": lambda: seq(
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (0, 1), (1, 2), groups=2, dilation=(1, 2)),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, (2, 3), dilation=(2, 1), groups=2, padding="valid"),
        nn.PReLU(4),
    ),
    "average pooling": lambda: seq(
        nn.Linear(4, 50),
        nn.Unflatten(1, (2, 5, 5)),
        nn.AvgPool2d(3, 2, 1),
        nn.ReLU(),
        nn.Upsample(6),
        nn.AvgPool2d((2, 3), (2, 1), (1, 1), ceil_mode=True, count_include_pad=False),
        nn.Sigmoid(),
    ),
    "adaptive pooling": lambda: seq(
        nn.Linear(4, 48),
        nn.Unflatten(1, (2, 4, 6)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((2, None)),
        nn.AdaptiveAvgPool2d(1),
    ),
    "pixel shuffle": lambda: seq(nn.Linear(3, 24), nn.Unflatten(1, (8, 1, 3)), nn.PixelShuffle(2), nn.ReLU()),
    "linear on the last axis": lambda: seq(nn.Linear(6, 6), nn.Unflatten(1, (2, 3)), nn.Linear(3, 4), nn.PReLU(2)),
    "odd slopes": lambda: seq(
        nn.Linear(3, 4), nn.LeakyReLU(0), nn.Linear(4, 4), nn.LeakyReLU(1.0), nn.Linear(4, 4), nn.LeakyReLU(1.5)
    ),
    "silu": lambda: seq(nn.Linear(3, 6), nn.SiLU(inplace=True), nn.Linear(6, 8), nn.Unflatten(1, (2, 4)), nn.SiLU()),
    "one layer": lambda: nn.Linear(3, 5),
}


BEGIN_WITH_CONVOLUTIONS = {"dcgan": (6, 1, 1), "groups, dilation, output padding": (4, 1, 1)}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("name", SEQUENTIALS)
def test_sequential(name):
    torch.manual_seed(0)
    module = evaluation(SEQUENTIALS[name]())
    net = from_torch(module, BEGIN_WITH_CONVOLUTIONS.get(name))
    check_same_as_module(net, module)
    layers_reproduce(net)


def test_logarithms_of_outputs_may_be_undone_in_the_module():
    inner = evaluation(seq(nn.Linear(3, 6), nn.SiLU(), nn.Linear(6, 8)))
    net = from_torch(lambda z: torch.exp(2.5 * inner(z)), 3)
    assert [str(layer.activation) for layer in net.layers] == ["swish", "exp"]
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(net(z), torch.exp(2.5 * inner(z)).detach(), rtol=1e-12)


class Functional(nn.Module):
    """Everything as functions and methods, and the sizes asked from the input."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 16)
        self.bn = nn.BatchNorm1d(16)
        self.up = nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)
        self.slopes = nn.Parameter(torch.rand(2))
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.gain = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("mean", torch.randn(4, 8, 8))

    def forward(self, z):
        h = F.leaky_relu(self.bn(self.fc(z)), 0.2).view(z.size(0), 4, 2, -1)
        h = F.prelu(self.up(h), self.slopes)
        h = F.dropout(h, 0.5, training=self.training)
        h = F.interpolate(h, scale_factor=2, mode="bilinear")
        h = F.conv2d(h, self.kernel, padding=1).relu_()
        h = torch.sigmoid(h) * self.gain - 2 * self.mean
        b, c = h.shape[:2]
        h = h.reshape(b, c, -1)[:, 1:, None, 3:-2]
        return -F.avg_pool2d(h.squeeze(2).unflatten(2, (1, -1)), (1, 2)).flatten(start_dim=1).tanh() / 3


class Arithmetic(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 6))
        self.left = nn.Parameter(torch.randn(5, 2))
        self.c = nn.Parameter(torch.randn(6))

    def forward(self, z, scale=2.0, unused=None):
        if unused is not None:
            z = z + unused
        h = torch.relu(z @ self.w + self.c)
        h = torch.add(1.0, h, alpha=scale)
        h = torch.rsub(h, self.c, alpha=0.5).sub(0.25).mul_(self.c.exp()).div(math.pi)
        h = torch.matmul(self.left, h.view(-1, 2, 3)).contiguous()
        h += self.c.sum()
        return torch.tanh(input=h.to(torch.float64).clone())


class Equalized(nn.Linear):
    """A subclass with a forward of its own is traced, not taken for its base."""

    def forward(self, x):
        return F.linear(x, self.weight * 0.5, self.bias)


class Named(nn.Linear):
    """A subclass that inherits forward is its base."""


CUSTOM = {
    "functional": (Functional, 5),
    "arithmetic": (Arithmetic, (4,)),
    "equalized": (lambda: seq(Equalized(3, 4), nn.ReLU(), Named(4, 2)), 3),
    "first layer with a forward of its own": (lambda: Equalized(3, 4), 3),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_module(name):
    torch.manual_seed(0)
    build, latent_shape = CUSTOM[name]
    module = evaluation(build())
    net = from_torch(module, latent_shape)
    check_same_as_module(net, module)
    layers_reproduce(net)


def test_batch_norms_are_folded():
    net = from_torch(evaluation(dcgan()), (6, 1, 1))
    assert [[type(step) for step in layer.affine.steps] for layer in net.layers] == [[Conv]] * 3
    net = from_torch(evaluation(SEQUENTIALS["mlp with batch norms"]()))
    assert [[type(step) for step in layer.affine.steps] for layer in net.layers] == [[Dense], [Dense]]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_geometry_of_a_convolution(data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    axes = data.draw(st.integers(1, 2))
    groups = data.draw(st.sampled_from([1, 2]))

    def sizes(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(axes))

    shape = (4, *sizes(5, 7))
    stride, dilation, kernel, padding = sizes(1, 3), sizes(1, 2), sizes(1, 3), sizes(0, 1)
    if data.draw(st.booleans()):
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[axes - 1]
        extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        conv = kind(4, 6, kernel, stride, padding, extra, groups, dilation=dilation)
    else:
        kind = (nn.Conv1d, nn.Conv2d)[axes - 1]
        same = data.draw(st.booleans())
        conv = kind(4, 6, kernel, 1 if same else stride, "same" if same else padding, dilation, groups)
    norm = (nn.BatchNorm1d, nn.BatchNorm2d)[axes - 1](6)
    module = evaluation(seq(conv, norm, nn.ReLU()))
    net = from_torch(module, shape)
    assert all(isinstance(step, Conv) for step in net.layers[0].affine.steps[-1:])
    z = torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(net(z.reshape(2, -1).numpy()), module(z).numpy(), atol=1e-10)


# --- the latent shape, and the module itself ------------------------------------------------------------------------


class Code(nn.Module):
    """What a function makes of the code and a layer."""

    def __init__(self, function, layer):
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, z):
        return self.function(self.layer, z)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (seq(nn.Linear(3, 4)), (3,)),
        (seq(nn.BatchNorm1d(3), nn.Linear(3, 4)), (3,)),
        (seq(nn.Unflatten(1, (6, 1, 1)), nn.Flatten(), nn.Linear(6, 4)), (6,)),
        (Code(lambda m, z: m(torch.flatten(torch.tanh(z), 1)), nn.Linear(6, 4)), (6,)),
        (Code(lambda m, z: m(z.view(z.size(0), -1)), nn.Linear(6, 4)), (6,)),
        (Code(lambda m, z: m(z) + m(z).square(), nn.Linear(6, 4)), (6,)),
    ],
)
def test_the_one_reading_of_the_latent_shape(module, shape):
    assert from_torch(module.eval()).latent_shape == shape


def test_latent_shape_given():
    module = seq(nn.Conv2d(2, 3, 3)).eval()
    assert from_torch(module, (2, 5, 5)).output_shape == (3, 3, 3)
    assert from_torch(module, [2, 5, 5]).latent_dim == 50
    assert from_torch(module, torch.Size([2, 5, 5])).latent_dim == 50
    assert from_torch(module, np.array([2, 5, 5])).latent_dim == 50
    assert from_torch(seq(nn.Linear(3, 2)), 3).latent_shape == (3,)
    assert from_torch(seq(nn.Linear(3, 2)), (4, 3)).output_shape == (4, 2)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_parametrised_weights():
    for wrap in (
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
    ):
        torch.manual_seed(0)
        module = seq(
            wrap(nn.Linear(3, 6)), nn.ReLU(), nn.Unflatten(1, (6, 1)), wrap(nn.ConvTranspose1d(6, 2, 3))
        ).double()
        with torch.no_grad():
            for _ in range(3):
                module(torch.randn(2, 3, dtype=torch.float64))
            for p in module.parameters():
                p.add_(0.01)
        module.eval()
        net = from_torch(module)
        z = torch.randn(4, 3, dtype=torch.float64)
        with torch.no_grad():
            np.testing.assert_allclose(net(z.numpy()), module(z).numpy(), atol=1e-10)


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(()))
        self.offset = torch.ones(3)
        self.seen = []
        self.last = None

    def forward(self, z):
        self.count.add_(1)
        self.seen.append(z)
        self.last = z
        self.offset.mul_(1.0)
        return self.fc(z) + self.offset


def test_the_module_is_left_alone():
    module = Remembering().eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    attributes = dict(module.__dict__)
    random = torch.get_rng_state()
    net = from_torch(module, 3)
    assert module.__dict__ == attributes
    assert module.seen == []
    assert module.last is None
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.requires_grad for p in module.parameters())
    z = np.ones(3)
    x = net(z)
    with torch.no_grad():
        module.fc.weight.zero_()
    np.testing.assert_array_equal(net(z), x)  # and the network does not follow it


def test_wrapped_modules():
    module = seq(nn.Linear(3, 2), nn.ReLU()).double()
    check_same_as_module(from_torch(nn.DataParallel(module)), module)
    check_same_as_module(from_torch(torch.compile(module, backend="eager")), module)
    check_same_as_module(from_torch(torch.fx.symbolic_trace(module)), module)
