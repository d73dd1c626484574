"""What a module does to its codes, recorded: in threads side by side, in place, and as a chain that can be copied."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.opaque_modules import made
from unrelu import from_torch
from unrelu.errors import ModelError
from unrelu.loaders._recording import recorded
from unrelu.models.network import Network

Z = np.random.default_rng(0).standard_normal((6, 4))


class Moved(nn.Module):
    """A chain with linear operators that have no weights: a permutation, a gather, pooling, resampling, padding."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 36), nn.Conv2d(4, 2, 3)

    def forward(self, z):
        x = torch.relu(self.first(z)).view(-1, 3, 3, 4).permute(0, 3, 1, 2)
        x = F.pad(F.interpolate(x, scale_factor=2, mode="bilinear")[:, [2, 0, 1, 3]], (1, 1, 0, 2))
        return F.avg_pool2d(self.last(x), 2).cumsum(-1)


def test_a_chain_of_linear_operators_is_copied_and_converted():
    module = made(Moved).double()
    net, wanted = from_torch(module, 4), module(torch.from_numpy(Z)).detach()
    assert isinstance(net, Network)
    for each in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_allclose(each(Z), wanted, rtol=1e-12, atol=1e-12)
    single = net.to(torch.float32)
    np.testing.assert_allclose(single(Z), wanted, rtol=1e-4, atol=1e-5)
    rows = [torch.autograd.functional.jacobian(lambda z: module(z[None])[0].ravel(), z) for z in torch.from_numpy(Z)]
    np.testing.assert_allclose(net.jacobian(Z), torch.stack(rows), rtol=1e-10, atol=1e-12)


def test_threads_record_side_by_side():
    modules = [made(Moved, seed=i).double() for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        nets = list(pool.map(lambda module: from_torch(module, 4), modules))
    for net, module in zip(nets, modules, strict=True):
        np.testing.assert_allclose(net(Z), module(torch.from_numpy(Z)).detach(), rtol=1e-12, atol=1e-12)


def test_no_hook_is_left_behind():
    module = nn.Linear(4, 4)
    with pytest.raises(ModelError, match="division by zero"):
        from_torch(lambda z: module(z) / (1 / 0), 4)
    from_torch(module)
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_nodes_know_their_modules():
    module = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 2)))
    graph = recorded(module, torch.zeros(3, 4))
    places = [node.meta["place"] for node in graph.nodes if "place" in node.meta]
    assert places == ["the code", "module '0' (Linear)", "module '1.0' (ReLU)", "module '1.1' (Linear)"]
    assert [node.meta["shape"] for node in graph.nodes if "shape" in node.meta] == [(3, 4), (3, 6), (3, 6), (3, 2)]


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.clone().mul_(2).relu_(),
        lambda z: torch.zeros_like(z).copy_(z).add_(1),
        lambda z: F.relu(z + 1, inplace=True)[:, 1:] * 3,
    ],
)
def test_values_changed_in_place(function):
    net = from_torch(function, 4)
    assert isinstance(net, Network)
    np.testing.assert_allclose(net(Z), function(torch.from_numpy(Z)), rtol=1e-12)


def test_a_part_of_a_tensor_that_is_written_is_no_chain():
    def function(z):
        x = torch.zeros(len(z), 5, dtype=z.dtype)
        x[:, 1:] = z.sinh()
        return x + 1

    net = from_torch(function, 4)
    assert not isinstance(net, Network)
    np.testing.assert_allclose(net(Z), function(torch.from_numpy(Z)), rtol=1e-12)


LAYER = nn.Linear(4, 6).double()
INDEX = torch.tensor([3, 1, 0])


def changed_later(z):
    c = torch.zeros(6, dtype=z.dtype)
    h = LAYER(z) + c
    c.fill_(1.0)
    return torch.cat([1e9 * LAYER(z), torch.relu(h)], 1)


def written_into(z):
    x = z.new_zeros(len(z), 6)
    x[:, :3] = torch.relu(LAYER(z) - 9)[:, :3]
    return LAYER(z) + x


@pytest.mark.parametrize(
    "function",
    [
        lambda z: torch.relu(LAYER(z)) * (1 if z.detach().numpy().sum() > 0 else 2),
        lambda z: torch.relu(LAYER(z)) * (1 + len(torch.nonzero(LAYER(z) > 9))),
        lambda z: torch.relu(LAYER(z)) * (1 + (LAYER(z)[LAYER(z) > 9]).numel()),
        lambda z: torch.relu(LAYER(z.bfloat16().double())) * (1 + len(z) / 10),
        written_into,
        changed_later,
        lambda z: torch.tanh(LAYER(z), out=torch.empty(len(z), 6, dtype=z.dtype)),
        lambda z: torch.cat([1e9 * LAYER(z), torch.relu(LAYER(z)) * len(z)], 1),
        lambda z: torch.roll(LAYER(z), 2, 0),
    ],
)
def test_it_is_no_chain(function):
    try:
        net = from_torch(function, 4)
    except ModelError:
        return
    assert not isinstance(net, Network)


def heads(z):
    """Heads of 6, 4 and 6 outputs and a constant; that of 4 is no chain of layers."""
    several = torch.cat([z.sinh(), torch.relu(LAYER(z))], -1)
    return torch.cat([torch.relu(LAYER(z)) - 1, several, torch.ones(len(z), 1, dtype=z.dtype)], 1)


@pytest.mark.parametrize(
    ("taken", "chain"),
    [
        (slice(None, 6), True), (slice(1, 6, 2), True), (slice(10, 16), True), (slice(-6, -2), True),
        (slice(6, 10), False), (slice(5, 7), False), (slice(9, None), False),
    ],
)  # fmt: skip
def test_other_heads_are_left_out(taken, chain):
    net = from_torch(lambda z: heads(z)[:, taken], 4)
    assert isinstance(net, Network) == chain
    np.testing.assert_allclose(net(Z), heads(torch.from_numpy(Z))[:, taken].detach(), rtol=1e-12)


def test_parts_of_another_axis_are_not_taken():
    net = from_torch(lambda z: torch.cat([z[:, None], z[:, None].sinh()], 1)[:, :, 1:3], 4)
    assert not isinstance(net, Network)
    np.testing.assert_allclose(net(Z)[:, 1], np.sinh(Z[:, 1:3]))


def test_rows_put_below_each_other():
    """In outputs of very different sizes, each is right."""
    normal = nn.BatchNorm1d(2).double().eval()
    normal.running_mean += torch.tensor([0.5, -1.0])
    for sums in (lambda x: x.view(-1, 2).sum(1).view(-1, 3), lambda x: normal(x.reshape(-1, 2)).view(-1, 6)):

        def function(z, sums=sums):
            return torch.cat([1e6 * LAYER(z), sums(torch.relu(LAYER(z)))], 1)

        np.testing.assert_allclose(from_torch(function, 4)(Z), function(torch.from_numpy(Z)).detach(), rtol=1e-10)


def test_indices_and_sparse_matrices():
    index, sparse = INDEX.clone(), torch.eye(6, dtype=torch.float64).to_sparse()
    net = from_torch(lambda z: torch.relu(LAYER(z) @ sparse)[:, index], 4)
    assert isinstance(net, Network)
    wanted = torch.relu(LAYER(torch.from_numpy(Z)))[:, INDEX].detach()
    index.zero_()
    np.testing.assert_allclose(net(Z), wanted, rtol=1e-12)
