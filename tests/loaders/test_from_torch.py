"""Modules as networks: values, Jacobians and layer matrices are PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tests.loaders.chains import CHAINS, Composed, dcgan, seq
from tests.loaders.loader_checks import check_same_as_module, evaluation, layers_reproduce
from unrelu.loaders import from_torch
from unrelu.models.affine import Conv, Dense


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("name", CHAINS)
def test_chains(name):
    torch.manual_seed(0)
    shape, build = CHAINS[name]
    module = evaluation(build())
    net = from_torch(module, shape)
    check_same_as_module(net, module)
    layers_reproduce(net)


def test_logarithms_of_outputs_may_be_undone_in_the_module():
    inner = evaluation(seq(nn.Linear(3, 6), nn.SiLU(), nn.Linear(6, 8)))
    net = from_torch(lambda z: torch.exp(2.5 * inner(z)), 3)
    assert [str(layer.activation) for layer in net.layers] == ["swish", "exp"]
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(net(z), torch.exp(2.5 * inner(z)).detach(), rtol=1e-12)


def test_batch_norms_are_folded():
    net = from_torch(evaluation(dcgan()), (6, 1, 1))
    assert [[type(step) for step in layer.affine.steps] for layer in net.layers] == [[Conv]] * 3
    net = from_torch(evaluation(CHAINS["mlp with batch norms"][1]()))
    assert [[type(step) for step in layer.affine.steps] for layer in net.layers] == [[Dense], [Dense]]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (seq(nn.Linear(3, 4)), (3,)),
        (seq(nn.BatchNorm1d(3), nn.Linear(3, 4)), (3,)),
        (seq(nn.Unflatten(1, (6, 1, 1)), nn.Flatten(), nn.Linear(6, 4)), (6,)),
        (Composed(lambda m, z: m.fc(torch.flatten(torch.tanh(z), 1)), fc=nn.Linear(6, 4)), (6,)),
        (Composed(lambda m, z: m.fc(z.view(z.size(0), -1)), fc=nn.Linear(6, 4)), (6,)),
        (Composed(lambda m, z: m.fc(z) + m.fc(z).square(), fc=nn.Linear(6, 4)), (6,)),
        (Composed(lambda m, z: m.fc((z - torch.ones(4)) / 2), fc=nn.Linear(4, 6)), (4,)),
        (seq(nn.LayerNorm(4), nn.Linear(4, 6)), (4,)),
        (seq(nn.PReLU(4), nn.Linear(4, 6)), (4,)),
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
