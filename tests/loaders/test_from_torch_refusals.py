"""Modules that are no chain of layers: generators are kept as opaque ones that say why, all others are refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.loaders.chains import Composed, seq
from unrelu.errors import ModelError
from unrelu.loaders import from_torch
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.opaque.torch_callables import frozen


def model(function, **modules):
    """Two linear layers, combined by a function."""
    layers = {"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4), "table": nn.Parameter(torch.ones(4))}
    return Composed(function, **layers, **modules).eval()


KEPT = [
    (model(lambda m, z: m.fc1(z) * m.fc2(z)), r"'fc2' \(Linear\) and module 'fc1' \(Linear\) both take .* of the code"),
    (model(lambda m, z: m.fc1(z) / z), r"'div' has branches, by div\(\); only chains of layers can be inverted"),
    (model(lambda m, z: torch.maximum(m.fc1(z), z)), "operation 'maximum' has branches"),
    (model(lambda m, z: z * z), "operation 'mul' has branches"),
    (model(lambda m, z: (torch.relu(z), m.fc1(z))[1] * torch.tanh(z)), "both take the output of the code"),
    (model(lambda m, z: ((h := m.fc1(z)).view(-1).relu_(), h)[1]),
     "a value that its input does not affect|changed in place"),
    (model(lambda m, z: F.softsign(z)), r"calls abs\(\), which is not an affine map or a known activation$"),
    (model(lambda m, z: m.main(z), main=seq(nn.Linear(4, 4), seq(nn.ReLU(), nn.Softsign()))),
     r"^module 'main\.1\.1' \(Softsign\) calls abs\(\), which is not an affine map or a known activation"),
    (model(lambda m, z: F.elu(z, 0.5)), "an ELU with alpha=0.5, which has a kink at 0"),
    (model(lambda m, z: F.softplus(z, threshold=3)), "jumps at its threshold=3"),
    (model(lambda m, z: torch.clamp(z, 1, 1) + z), "cuts outputs off at 1.0 and 1.0"),
    (model(lambda m, z: z.cosh()), r"calls cosh\(\)"),
    (model(lambda m, z: 1 / z), r"calls reciprocal\(\)"),
    (model(lambda m, z: F.linear(m.table, z)), "mixes the batch axis"),
    (model(lambda m, z: F.pad(z, (1, 1), value=2.0)), "only zeros are supported"),
    (model(lambda m, z: z @ m.table), r"calls mv\(\)"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "reason"), KEPT)
def test_no_chain_but_a_generator(module, reason):
    """It is kept as an opaque generator that computes the same, and says why it is no chain."""
    net = from_torch(module, 4)
    assert isinstance(net, OpaqueNetwork)
    assert re.search(reason, net.reason)
    z = np.random.default_rng(0).standard_normal((3, 4))
    expected = frozen(module, torch.float64, torch.device("cpu"))(torch.from_numpy(z))
    np.testing.assert_allclose(net(z), expected, rtol=1e-12, atol=1e-12)
    assert net.output_shape == expected.shape[1:]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, z: z + torch.conv1d(z[:, None], m.table[None, None, :3], padding=1)[:, 0],
        lambda m, z: m.fc1(z).fliplr(),
        lambda m, z: z[:, ::2],
        lambda m, z: z + m.table.expand(z.size(0), -1),
        lambda m, z: z.view(len(z), 4) * m.table,
        lambda m, z: m.fc1(torch.stack([z, 2 * z], 1)).mean(1),
        lambda m, z: F.interpolate(z[:, None], scale_factor=1.3, mode="linear"),
        lambda m, z: F.interpolate(z[:, None, None], size=2, mode="bilinear", antialias=True),
        lambda m, z: F.avg_pool2d(z[:, None, None], (1, 2), ceil_mode=True, divisor_override=3),
    ],
)
def test_functions_of_a_chain(function):
    module = model(function, up=nn.ConvTranspose1d(4, 1, 3)).double()
    net = from_torch(module, 4)
    assert isinstance(net, Network)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 4)))
    np.testing.assert_allclose(net(z), module(z.clone()).detach(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(net.jacobian(z), from_torch(lambda z: module(z) + 0 * z.cosh().sum(), 4).jacobian(z),
                               rtol=1e-10, atol=1e-10)  # fmt: skip


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_a_part_of_the_module(hook):
    module = seq(nn.Linear(3, 3), seq(nn.ReLU())).double()
    getattr(module[1], hook)(lambda m, x, *out: 2 * out[0] if out else (2 * x[0],))
    z = np.random.default_rng(0).standard_normal((4, 3))
    net = from_torch(module)
    assert isinstance(net, Network)
    np.testing.assert_allclose(net(z), 2 * seq(*module[:1], nn.ReLU())(torch.from_numpy(z)).detach(), rtol=1e-12)


def with_nan():
    module = seq(nn.Linear(3, 3), nn.ReLU(), seq(nn.Linear(3, 3)))
    module[2][0].weight.data[1, 1] = torch.nan
    return module


def with_a_negative_variance():
    module = seq(nn.BatchNorm1d(3)).eval()
    module[0].running_var.fill_(-1)
    return module


def behind_a_reshape(module):
    return seq(nn.Unflatten(1, (4, 5)), module).eval()


BATCH_AXIS = "the batch axis must stay the first"
TRAINING = r"module '1\.1.*is in training mode; call module\.eval\(\) first"
SHAPE = "latent_shape must be a positive integer or a tuple of them, got"
# What is given, the shape of a code, and the message.
REFUSED = [
    # several outputs, or none
    (model(lambda m, z: (m.fc1(z), z)), 4, r"it returns a tuple with 0 \(2, 4\), 1 \(2, 4\); .*; say which"),
    (model(lambda m, z: {"x": m.fc1(z)}), 4, r"it returns a dict with 'x' \(2, 4\); .*output='x'"),
    (model(lambda m, z: m.table * 2), 4, "the module returns a value that its input does not affect"),
    (model(lambda m, z: z.shape[1]), 4, "the module returns a value that its input does not affect"),
    # no module with weights
    (nn.Linear(3, 4).state_dict(), 3, "got OrderedDict; build the module, and load its weights by module.load_state_d"),
    (Composed, 3, "got the class Composed; build the module, and load its weights by module.load_state_dict"),
    (Path("decoder.pth"), 3, "got (Posix|Windows)Path; .*for files use unrelu.load"),
    # operators
    (seq(nn.Linear(4, 4), nn.Bilinear(4, 4, 4)), 4, r"for float64 inputs of shape \(7, 4\) it raises \w+: "),
    (seq(nn.Linear(4, 4), nn.Embedding(4, 4)), 4, r"\(Embedding\) does not fit|it raises \w+: "),
    (model(lambda m, z: z > 0), 4, r"calls gt\(\)|gives numbers of type torch.bool"),
    (model(lambda m, z: torch.div(z, 2, rounding_mode="floor")), 4, r"calls div\(\)"),
    (model(lambda m, z: F.batch_norm(z, None, None, training=True)), 4, "statistics of the batch"),
    (model(lambda m, z: z.relu(True, 3)), 4, "it raises TypeError"),
    (model(lambda m, z: m.missing(z)), 4, "it raises AttributeError: .*missing"),
    (model(lambda m, z: z.view(torch.int64)), 4, "gives numbers of type torch.int64"),
    (model(lambda m, z: z.to(torch.int32)), 4, "gives numbers of type torch.int32"),
    (model(lambda m, z: z * z.size(0)), 4, "depends on the batch size, changes values, draws numbers or counts calls"),
    # shapes
    *((model(function), 4, BATCH_AXIS) for function in (
        lambda m, z: z.T, lambda m, z: z.view(-1), lambda m, z: z.view(-1, 2), lambda m, z: z.reshape(4, -1),
        lambda m, z: z[0], lambda m, z: z[1:], lambda m, z: F.pad(z, (0, 0, 1, 1)), lambda m, z: z[:, 2:2],
    )),
    (model(lambda m, z: z[:, 9]), 4, "index 9 is out of bounds for dimension 1 with size 4"),
    (model(lambda m, z: z[:, 0, 0, 0]), 4, "too many indices for tensor of dimension 2|out of range"),
    (model(lambda m, z: z + torch.ones(3, 4)), 4, r"'add' does not fit an input of shape \(4,\)"),
    (model(lambda m, z: F.pixel_shuffle(z[:, :, None, None], 3)), 4, "'pixel_shuffle' does not fit an input of shape"),
    (model(lambda m, z: m.fc1.weight @ z), 4, r"'mm' does not fit an input of shape \(4,\)"),
    (behind_a_reshape(nn.Conv1d(3, 4, 1)), 20,
     r"module '1' \(Conv1d\) does not fit an input of shape \(4, 5\): .*\[4, 3, 1\]"),
    (behind_a_reshape(nn.Unflatten(1, (3, 2))), 20, r"it raises RuntimeError: unflatten: Provided sizes \[3, 2\]"),
    (behind_a_reshape(nn.PReLU(3)), 20, "it raises RuntimeError: Mismatch of parameter numbers"),
    (seq(nn.Identity()), 3, "at least one layer"),
    # numbers and modes
    (with_nan(), None, r"1 of 9 entries of '2\.0\.weight' are NaN"),
    (with_a_negative_variance(), 3, "3 of 3 entries of a Scale scale are NaN"),
    (seq(nn.Linear(3, 3, dtype=torch.complex64)), 3, "Complex"),
    (behind_a_reshape(nn.BatchNorm1d(4, track_running_stats=False)), 20,
     "statistics of the batch.*track_running_stats=True"),
    *((seq(nn.Linear(3, 3), seq(nn.ReLU(), part)), None, TRAINING)
      for part in (nn.BatchNorm1d(3), nn.Dropout(), nn.AlphaDropout(), nn.InstanceNorm1d(3))),
    # the shape of a code
    *((nn.Linear(3, 3), shape, SHAPE) for shape in (0, (-1,), (), (2.0,), (True,), "3")),
    (seq(nn.Tanh(), nn.Conv2d(2, 3, 3)), None, r"pass latent_shape=, the shape of one latent .*Conv2d\(2, 3"),
    (lambda z: z.sinh(), None, r"pass latent_shape=, the shape of one latent code\. For"),
    (seq(nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 2)), None,
     r"latent_shape was taken to be 3; pass latent_shape= if it is not"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "latent_shape", "message"), REFUSED)
def test_no_generator(given, latent_shape, message):
    with pytest.raises(ModelError, match=message):
        from_torch(given, latent_shape)
