"""Modules that are no chain of layers: generators are kept as opaque ones that say why, all others are refused."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders import from_torch
from unrelu.models.network import Network
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.opaque.torch_callables import frozen


class Model(nn.Module):
    """Two linear layers, combined by a function."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 4)
        self.counter = itertools.count()
        self.table = nn.Parameter(torch.ones(4))
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, z):
        return self.function(self, z)


def refuse(function, message, error=UnsupportedModelError, latent_shape=4, **modules):
    with pytest.raises(error, match=message):
        from_torch(Model(function, **modules).eval(), latent_shape)


def seq(*modules):
    return nn.Sequential(*modules)


def opaque(module, reason, latent_shape=4):
    """The module is kept as an opaque generator that computes the same, and says why it is no chain."""
    net = from_torch(module.eval(), latent_shape)
    assert isinstance(net, OpaqueNetwork)
    assert re.search(reason, net.reason)
    z = np.random.default_rng(0).standard_normal((3, latent_shape))
    expected = frozen(module, torch.float64, torch.device("cpu"))(torch.from_numpy(z))
    np.testing.assert_allclose(net(z), expected, rtol=1e-12, atol=1e-12)
    assert net.output_shape == expected.shape[1:]


# --- no chain, but a generator ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, z: m.fc1(z) * m.fc2(z), r"'fc2' \(Linear\) and module 'fc1' \(Linear\) both take .* of the code"),
        (lambda m, z: m.fc1(z) / z, r"operation 'div' has branches, by div\(\); only chains of layers can be inverted"),
        (lambda m, z: torch.maximum(m.fc1(z), z), "operation 'maximum' has branches"),
        (lambda m, z: z * z, "operation 'mul' has branches"),
        (lambda m, z: (torch.relu(z), m.fc1(z))[1] * torch.tanh(z), "both take the output of the code"),
        (
            lambda m, z: ((h := m.fc1(z)).view(-1).relu_(), h)[1],
            "a value that its input does not affect|changed in place",
        ),
        (lambda m, z: F.softsign(z), r"calls abs\(\), which is not an affine map or a known activation$"),
        (lambda m, z: F.elu(z, 0.5), "an ELU with alpha=0.5, which has a kink at 0"),
        (lambda m, z: F.softplus(z, threshold=3), "jumps at its threshold=3"),
        (lambda m, z: torch.clamp(z, 1, 1) + z, "cuts outputs off at 1.0 and 1.0"),
        (lambda m, z: z.cosh(), r"calls cosh\(\)"),
        (lambda m, z: 1 / z, r"calls reciprocal\(\)"),
        (lambda m, z: F.linear(m.table, z), "mixes the batch axis"),
        (lambda m, z: F.pad(z, (1, 1), value=2.0), "only zeros are supported"),
        (lambda m, z: z @ m.table, r"calls mv\(\)"),
    ],
)
def test_functions_of_no_chain(function, reason):
    opaque(Model(function), reason)


def test_an_unknown_module_is_named_with_its_path():
    module = Model(lambda m, z: m.main(z), main=seq(nn.Linear(4, 4), seq(nn.ReLU(), nn.Softsign())))
    opaque(module, r"^module 'main\.1\.1' \(Softsign\) calls abs\(\), which is not an affine map or a known activation")


# --- a chain, whatever it is written with -----------------------------------------------------------------------------


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
    module = Model(function, up=nn.ConvTranspose1d(4, 1, 3)).double().eval()
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


# --- branches and joins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, z: (m.fc1(z), z), r"it returns a tuple with 0 \(2, 4\), 1 \(2, 4\); .*; say which"),
        (lambda m, z: {"x": m.fc1(z)}, r"it returns a dict with 'x' \(2, 4\); .*output='x'"),
        (lambda m, z: m.table * 2, "the module returns a value that its input does not affect"),
        (lambda m, z: z.shape[1], "the module returns a value that its input does not affect"),
    ],
)
def test_branches(function, message):
    refuse(function, message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            nn.Linear(3, 4).state_dict(),
            "got OrderedDict; build the module, and load its weights by module.load_state_d",
        ),
        (Model, "got the class Model; build the module, and load its weights by module.load_state_dict"),
        (Path("decoder.pth"), "got (Posix|Windows)Path; .*for files use unrelu.load"),
    ],
)
def test_what_people_have_before_the_module_has_its_weights(given, message):
    with pytest.raises(ModelError, match=message):
        from_torch(given, 3)


# --- operations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [nn.Bilinear(4, 4, 4), nn.Embedding(4, 4)])
def test_unsupported_modules(module):
    with pytest.raises(
        ModelError, match=r"for float64 inputs of shape \(7, 4\) it raises \w+: |\(Embedding\) does not fit"
    ):
        from_torch(seq(nn.Linear(4, 4), module).eval(), 4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        *((each, "the batch axis must stay the first") for each in (
            lambda m, z: z.T, lambda m, z: z.view(-1), lambda m, z: z.view(-1, 2), lambda m, z: z.reshape(4, -1),
            lambda m, z: z[0], lambda m, z: z[1:], lambda m, z: F.pad(z, (0, 0, 1, 1)), lambda m, z: z[:, 2:2],
        )),
        (lambda m, z: z > 0, r"calls gt\(\)|gives numbers of type torch.bool"),
        (lambda m, z: torch.div(z, 2, rounding_mode="floor"), r"calls div\(\)"),
        (lambda m, z: F.dropout(z), "it draws random numbers; a generator must be deterministic"),
        (lambda m, z: F.batch_norm(z, None, None, training=True), "statistics of the batch"),
        (lambda m, z: z.relu(True, 3), "it raises TypeError"),
        (lambda m, z: m.missing(z), "it raises AttributeError: .*missing"),
        (lambda m, z: z.view(torch.int64), "gives numbers of type torch.int64"),
        (lambda m, z: z.to(torch.int32), "gives numbers of type torch.int32"),
        (lambda m, z: z[:, 9], "index 9 is out of bounds for dimension 1 with size 4"),
        (lambda m, z: z[:, 0, 0, 0], "too many indices for tensor of dimension 2|out of range"),
        (lambda m, z: z + torch.ones(3, 4), r"'add' does not fit an input of shape \(4,\)"),
        (lambda m, z: z * z.size(0), "it depends on the batch size, changes values, draws numbers or counts calls"),
        (lambda m, z: z + torch.randn(4), "it draws random numbers"),
        (lambda m, z: z * next(m.counter), "a second evaluation gives another output"),
        (lambda m, z: z + torch.randn_like(z), r"it draws random numbers"),
        (lambda m, z: z * m.table.mul_(2), "a second evaluation gives another output"),
        (lambda m, z: z if z.sum() > 0 else -z, "takes a number out of a tensor that depends on the code"),
        (lambda m, z: F.pixel_shuffle(z[:, :, None, None], 3), "'pixel_shuffle' does not fit an input of shape"),
        (lambda m, z: m.fc1.weight @ z, r"'mm' does not fit an input of shape \(4,\)"),
    ],
)  # fmt: skip
def test_functions(function, message):
    refuse(function, message, ModelError)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.BatchNorm1d(4, track_running_stats=False), "statistics of the batch.*track_running_stats=True"),
        (nn.Conv1d(3, 4, 1), r"module '1' \(Conv1d\) does not fit an input of shape \(4, 5\): .*\[4, 3, 1\]"),
        (nn.Unflatten(1, (3, 2)), r"it raises RuntimeError: unflatten: Provided sizes \[3, 2\]"),
        (nn.PReLU(3), "it raises RuntimeError: Mismatch of parameter numbers"),
    ],
)
def test_modules_that_do_not_fit(module, message):
    with pytest.raises(ModelError, match=message):
        from_torch(seq(nn.Unflatten(1, (4, 5)), module).eval(), 20)


def test_not_finite():
    module = seq(nn.Linear(3, 3), nn.ReLU(), seq(nn.Linear(3, 3)))
    with torch.no_grad():
        module[2][0].weight[1, 1] = float("nan")
    with pytest.raises(ModelError, match=r"1 of 9 entries of '2\.0\.weight' are NaN"):
        from_torch(module)
    norm = seq(nn.BatchNorm1d(3)).eval()
    norm[0].running_var.fill_(-1)
    with pytest.raises(ModelError, match="3 of 3 entries of a Scale scale are NaN"):
        from_torch(norm, 3)
    with pytest.raises(ModelError, match="Complex"):
        from_torch(seq(nn.Linear(3, 3, dtype=torch.complex64)), 3)


# --- what the module is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [nn.BatchNorm1d(3), nn.Dropout(), nn.AlphaDropout(), nn.InstanceNorm1d(3)])
def test_training_mode(part):
    with pytest.raises(ModelError, match=r"module '1\.1.*is in training mode; call module\.eval\(\) first"):
        from_torch(seq(nn.Linear(3, 3), seq(nn.ReLU(), part)))


def test_nothing_to_chain():
    with pytest.raises(ModelError, match="at least one layer"):
        from_torch(seq(nn.Identity()), 3)


# --- the latent shape -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [0, (-1,), (), (2.0,), (True,), "3"])
def test_latent_shape_must_be_positive(shape):
    with pytest.raises(ModelError, match="latent_shape must be a positive integer or a tuple of them, got"):
        from_torch(nn.Linear(3, 3), shape)


def test_latent_shape_unknown():
    for module, first in ((seq(nn.Tanh(), nn.Conv2d(2, 3, 3)), r"Conv2d\(2, 3"), (lambda z: z.sinh(), "code. For")):
        with pytest.raises(ModelError, match=rf"pass latent_shape=, the shape of one latent .*{first}"):
            from_torch(module)


def test_one_reading_that_the_module_does_not_accept():
    module = seq(nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ModelError, match=r"latent_shape was taken to be 3; pass latent_shape= if it is not"):
        from_torch(module)
    assert from_torch(module, (2, 3)).output_shape == (2,)
