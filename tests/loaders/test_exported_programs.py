"""Programs of torch.export, as objects and as what ``torch.export.load`` opens."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from tests.loaders.chains import CHAINS
from tests.opaque.test_torch_callables import Heads
from tests.opaque_modules import GENERATORS, OPAQUE, codes, made
from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.models.network import Network

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def exported(module, shape, dynamic):
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    return torch.export.export(module, (torch.zeros(2 if dynamic else 1, *shape),), dynamic_shapes=shapes)


def opened(path, program):
    """The module of a program from its file, as the refusal of the file says."""
    torch.export.save(program, path)
    return torch.export.load(path).module()


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_program_of_layers_is_read_as_layers(tmp_path, dynamic):
    module = made(CHAINS["vae"][1])
    program = exported(module, (3,), dynamic)
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
    class Pair(nn.Module):
        def forward(self, z, c=1.0):
            return z.exp() * c, z

    both = torch.export.export(Pair(), (torch.zeros(1, 3), torch.ones(1, 3)))
    program = torch.export.export(Pair(), (torch.zeros(1, 3),))
    for given, arguments, message in (
        (both, {}, r"takes inputs of shapes \(1, 3\), \(1, 3\); export one that takes codes \(B, ...\) alone"),
        (program, {}, "output=0"),
        (
            program,
            {"latent_shape": 7, "output": 0},
            r"latent_shape=\(7,\), but the program takes codes of shape \(3,\)",
        ),
    ):
        with pytest.raises(ModelError, match=message):
            unrelu.from_torch(given, **arguments)
    z = np.random.default_rng(0).standard_normal((2, 3))
    np.testing.assert_allclose(unrelu.from_torch(program, output=0)(z), np.exp(z))


def test_outputs_of_a_program_become_named_parts(tmp_path):
    module = made(Heads)
    reference = unrelu.from_torch(module, output=["vector", "number"])
    z = codes(reference)
    program = exported(module, (4,), True)
    for given in (program, opened(tmp_path / "net.pt2", program)):
        net = unrelu.from_torch(given, output=["vector", "number"])
        assert net.parts == reference.parts
        np.testing.assert_allclose(net(z), reference(z), rtol=1e-12)
        assert isinstance(unrelu.from_torch(given, output="picture"), Network)
        with pytest.raises(
            UnsupportedModelError, match=r"returns a dict with 'vector' \(2, 5\), 'picture' \(2, 2, 3\), .*; say which"
        ):
            unrelu.from_torch(given)
