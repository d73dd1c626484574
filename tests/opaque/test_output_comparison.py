"""What is read is compared with its function at codes that reading has not seen: no function is read as another."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.opaque_modules import made
from unrelu import from_torch
from unrelu.errors import UnsupportedModelError
from unrelu.models.network import Network
from unrelu.opaque import output_comparison
from unrelu.opaque.opaque_network import OpaqueNetwork

LAYER = made(nn.Linear, 4, 6).double().requires_grad_(False)
SINGLE = made(nn.Linear, 4, 6).requires_grad_(False)
Z = torch.from_numpy(3 * np.random.default_rng(0).standard_normal((50, 4)))


def relu(z):
    return torch.relu(LAYER(z))


def gate(limit):
    """x * sigmoid(x), but for arguments beyond a limit."""
    return lambda z: (x := LAYER(z)) * torch.sigmoid(x.clamp(-limit, limit))


def in_a_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def with_other_data(z):
    h = LAYER(z)
    h.data = torch.tanh(h.data)
    return 2 * h


def applied(z):
    return LAYER(z).detach().clone().apply_(lambda x: max(x, 0.2)) + 0 * LAYER(z)


def counted():
    calls = iter(range(10**6))
    return lambda z: relu(z) * (1 + 1e-6 * next(calls))


def later():
    calls = iter(range(10**6))
    return lambda z: relu(z) * (1 if next(calls) < 8 else 2)


def remembered():
    held = {}
    return lambda z: held.setdefault(len(z), relu(z))


def of_the_last_call():
    last = [0.0]

    def function(z):
        before, last[0] = last[0], float(z.detach().numpy().sum())
        return relu(z) + 1e-3 * before

    return function


def changing_a_constant():
    constant = torch.zeros(6, dtype=torch.float64)
    return lambda z: relu(z) + constant.add_(1e-6)


def drawing(draw):
    return lambda z: relu(z) * (1 + draw())


NUMPY, PYTHON, OWN = np.random.default_rng(0), random.Random(0), torch.Generator()
REFUSED = {
    "batches beyond 32": lambda z: relu(z) * (2 if len(z) > 32 else 1),
    "batches beyond 299": lambda z: relu(z) * (2 if len(z) > 299 else 1),
    "a branch on a thread's result": lambda z: relu(z) * (2 if in_a_thread(lambda: float(z.detach().sum())) > 0 else 1),
    "the result of a thread": lambda z: relu(z) + in_a_thread(lambda: LAYER(z).detach().sin()),
    "typed_storage": lambda z: relu(z) * (2 if LAYER(z).detach()._typed_storage()[0] > 0 else 1),
    "untyped_storage": lambda z: relu(z) * (2 if LAYER(z).detach().untyped_storage()[7] > 127 else 1),
    "DLPack": lambda z: relu(z) + torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(LAYER(z).detach())).sin(),
    "NumPy": lambda z: relu(z) + torch.from_numpy(np.tanh(z.detach().numpy()))[:, :1],
    "apply_": applied,
    "data": with_other_data,
    "whether gradients are enabled": lambda z: torch.tanh(LAYER(z)) if torch.is_grad_enabled() else relu(z),
    "whether the code has one": lambda z: torch.tanh(LAYER(z)) if z.requires_grad else relu(z),
    "a count of calls": counted(),
    "what it remembers": remembered(),
    "the call before": of_the_last_call(),
    "a constant that it changes": changing_a_constant(),
    "dropout": lambda z: F.dropout(relu(z), 0.1),
    "NumPy's random numbers": drawing(lambda: 1e-3 * NUMPY.random()),
    "tiny random numbers": drawing(lambda: 1e-7 * PYTHON.random()),
    "a generator of its own": drawing(lambda: 1e-3 * torch.rand(6, generator=OWN).double()),
}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_more_than_the_code_is_refused(name):
    with pytest.raises(UnsupportedModelError, match=r"batch|derivative|second evaluation|random numbers"):
        from_torch(REFUSED[name], 4)


OPAQUE = {
    **{f"a gate that is limited at {limit}": gate(limit) for limit in (8, 10, 14, 17, 25)},
    "a gate that is limited above": lambda z: (x := LAYER(z)) * torch.sigmoid(x.clamp(max=15)),
    "a bend far away": lambda z: relu(z) + torch.from_numpy(np.maximum(z.detach().numpy() - 7, 0))[:, :1],
    "a small share of large batches": lambda z: relu(z) * (1 + 1e-8 * (len(z) > 32)),
    "a branch after some calls": later(),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_its_layers_are_not_stays_as_it_is(name):
    net = from_torch(OPAQUE[name], 4)
    assert isinstance(net, OpaqueNetwork)
    np.testing.assert_allclose(net(Z), OPAQUE[name](Z), rtol=1e-12)


class Automatic(nn.Module):
    """In bfloat16 where PyTorch chooses so, which it does for codes in single precision."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 20), nn.Linear(20, 9)

    def forward(self, z):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.last(torch.relu(self.first(z)))


AUTOMATIC = made(Automatic)
CASTS = {
    "half": (lambda z: relu(z).half().double(), torch.float16),
    "half at the start": (lambda z: relu(z.half().double()), torch.float16),
    "half products": (lambda z: F.linear(z.half(), LAYER.weight.half(), LAYER.bias.half()).double(), torch.float16),
    "bfloat16": (lambda z: relu(z).bfloat16().double(), torch.bfloat16),
    "bfloat16 in a small part": (lambda z: relu(z) + 1e-5 * z[:, :1].bfloat16().double(), torch.bfloat16),
    "8 bits": (lambda z: relu(z).to(torch.float8_e4m3fn).double(), torch.float8_e4m3fn),
    "8 bits, coarse": (lambda z: relu(z).to(torch.float8_e5m2).double(), torch.float8_e5m2),
    "autocast": (AUTOMATIC, torch.bfloat16),
    "autocast in a function": (lambda z: AUTOMATIC(z).double(), torch.bfloat16),
}


@pytest.mark.parametrize("name", CASTS)
def test_casts_are_stated_by_the_rounding(name):
    """The level is twice the largest error of 16 codes; that of 50 others has the same law, to a factor of four."""
    function, dtype = CASTS[name]
    net = from_torch(function, 4)
    z = Z.float() / 3 if "autocast" in name else Z / 3
    error = np.sqrt(np.square(net(z.double().numpy()) - function(z).detach().double().numpy()).mean(axis=1)).max()
    assert isinstance(net, Network)
    assert net.rounding.dtype == dtype
    assert 0.5 * error < net.rounding.level < 8 * error
    assert f"computes in {net.rounding.name}" in str(net)


def deep(activation, depth, width=50):
    layers = [layer for i in range(depth) for layer in (nn.Linear(width if i else 4, width), activation())]
    module = nn.Sequential(*layers, nn.Linear(width, 9)).eval()
    for layer in module[::2]:
        nn.init.kaiming_normal_(layer.weight)
    return module


DEEP = made(deep, nn.ReLU, 3).double()
ROOT = float(np.float32(2**0.5))
READ = {
    **{f"deep {kind.__name__}": made(deep, kind, 60) for kind in (nn.ReLU, nn.GELU, nn.Softplus, nn.Tanh)},
    "cancellation": lambda z: (DEEP(z) + 1e8) - 1e8,
    "cancellation in the code": lambda z: DEEP((z + 1e9) - 1e9),
    "outputs of other sizes": lambda z: torch.cat([1e30 * DEEP(z), 1e-30 * DEEP(z)], 1),
    "outputs that overflow": lambda z: torch.exp(100 * DEEP(z)),
    "a fast sine": lambda z: torch.sin(1e8 * LAYER(z)),
    "single precision inside": lambda z: torch.cat([DEEP(z), torch.relu(SINGLE(z.float())).double()], 1),
    "constants in single precision": lambda z: 0.5 * (x := LAYER(z)) * (1 + torch.erf(x / ROOT)),
    "a gate of limited arguments": gate(40),
    "without gradients": torch.no_grad()(relu),
    "in inference mode": torch.inference_mode()(relu),
    "in place": lambda z: torch.relu_(LAYER(z.mul_(2))),
    "a check of the codes": lambda z: relu(z) if np.isfinite(z.detach().numpy()).all() else z / 0,
}


@pytest.mark.parametrize("name", READ)
def test_rounding_errors_are_no_difference(name):
    net = from_torch(READ[name], 4)
    assert isinstance(net, Network), net
    assert net.rounding is None


def test_the_work_is_limited(monkeypatch):
    sizes = []
    function = lambda z: (sizes.append(len(z)), relu(z))[1]  # noqa: E731
    from_torch(function, 4)
    assert {1, 7, 40, 300} <= set(sizes)
    assert sum(sizes) < 550
    sizes.clear()
    monkeypatch.setattr(output_comparison, "_MOST_WORK", 1)
    from_torch(function, 4)
    assert max(sizes) == 7
    assert sum(sizes) < 100


def test_the_whole_domain_is_compared():
    """Only one code in twenty, and none near the middle, is beyond the bend."""

    def function(z):
        return torch.relu(LAYER(z)) + torch.from_numpy(np.maximum(z.detach().numpy()[:, :1] - 2.9, 0))

    net = from_torch(function, bounds=dict.fromkeys("abcd", (-1.0, 3.0)))
    assert isinstance(net.plain, OpaqueNetwork)
    z = torch.rand(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4 - 1
    np.testing.assert_allclose(net(z), function(z), rtol=1e-12)
