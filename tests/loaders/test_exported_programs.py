"""Programs of torch.export, as objects and as what ``torch.export.load`` opens."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from tests.opaque_modules import GENERATORS, OPAQUE, codes, made
from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.models.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def chain():
    return nn.Sequential(
        nn.Linear(4, 32), nn.LeakyReLU(0.1), nn.Unflatten(1, (2, 4, 4)), nn.ConvTranspose2d(2, 3, 4, 2, 1),
        nn.BatchNorm2d(3), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(3, 1, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


def exported(module, shape, dynamic):
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    return torch.export.export(module, (torch.zeros(2 if dynamic else 1, *shape),), dynamic_shapes=shapes)


def opened(path, program):
    """The module of a program from its file, as the refusal of the file says."""
    torch.export.save(program, path)
    return torch.export.load(path).module()


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_program_of_layers_is_read_as_layers(tmp_path, dynamic):
    module = made(chain)
    program = exported(module, (4,), dynamic)
    reference = unrelu.from_torch(module)
    z = codes(reference)
    for net in (unrelu.from_torch(program), unrelu.from_torch(opened(tmp_path / "net.pt2", program))):
        assert isinstance(net, Network)
        np.testing.assert_allclose(net(z), reference(z), rtol=1e-12)
        assert len(net.layers) == len(reference.layers)


@pytest.mark.parametrize(("name", "dynamic"), [("attention", True), ("modulated", False), ("residual", False)])
def test_a_program_that_branches_is_a_generator(tmp_path, name, dynamic):
    """One that was exported for a batch of one is evaluated for batches of any size."""
    module, shape, _ = GENERATORS[name]
    program = exported(module, shape, dynamic)
    z = codes(OPAQUE[name])
    for net in (unrelu.from_torch(program), unrelu.from_torch(opened(tmp_path / "net.pt2", program))):
        np.testing.assert_allclose(net(z), OPAQUE[name](z), rtol=1e-9, atol=1e-12)
        assert net.latent_shape == shape
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_allclose(again(z), net(z), rtol=1e-12)


def test_several_outputs_and_inputs():
    class Two(nn.Module):
        def forward(self, z, c):
            return z.exp() * c, z

    both = torch.export.export(Two(), (torch.zeros(1, 3), torch.ones(1, 3)))
    with pytest.raises(
        UnsupportedModelError,
        match=r"takes inputs of shapes \(1, 3\), \(1, 3\); export one that takes codes \(B, ...\) alone",
    ):
        unrelu.from_torch(both)

    class One(nn.Module):
        def forward(self, z):
            return z.exp(), z

    program = torch.export.export(One(), (torch.zeros(1, 3),))
    with pytest.raises(UnsupportedModelError, match="output=0"):
        unrelu.from_torch(program)
    z = np.random.default_rng(0).standard_normal((2, 3))
    np.testing.assert_allclose(unrelu.from_torch(program, output=0)(z), np.exp(z))
    with pytest.raises(ModelError, match=r"latent_shape=\(7,\), but the program takes codes of shape \(3,\)"):
        unrelu.from_torch(program, 7, output=0)


def test_outputs_of_a_program_become_named_parts(tmp_path):
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.one, self.two = nn.Linear(4, 9), nn.Linear(9, 5), nn.Linear(9, 6)

        def forward(self, z):
            h = torch.tanh(self.trunk(z))
            return {"one": self.one(h), "two": self.two(h)}

    module = made(Heads)
    reference = unrelu.from_torch(module, output=["one", "two"])
    z = codes(reference)
    program = exported(module, (4,), True)
    for given in (program, opened(tmp_path / "net.pt2", program)):
        net = unrelu.from_torch(given, output=["one", "two"])
        assert net.parts == reference.parts
        np.testing.assert_allclose(net(z), reference(z), rtol=1e-12)
        assert isinstance(unrelu.from_torch(given, output="two"), Network)
        with pytest.raises(
            UnsupportedModelError, match=r"returns a dict with 'one' \(2, 5\), 'two' \(2, 6\); .*; say which"
        ):
            unrelu.from_torch(given)
