"""Functions, outputs and further inputs of what is passed as a generator."""

from __future__ import annotations

import copy
import functools
import re
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from tests.opaque_modules import made
from unrelu.errors import ModelError, OptionError, UnsupportedModelError
from unrelu.models.network import Network

DECODER = made(lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 30), nn.Sigmoid()))
WEIGHT = torch.linspace(-1, 2, 120).reshape(30, 4)
Z = np.random.default_rng(5).standard_normal((3, 4))
WANTED = copy.deepcopy(DECODER).double()(torch.from_numpy(Z)).detach().numpy()


def decoded(z, gain=1.0):
    return gain * DECODER(z)


class Trainer:
    def __init__(self):
        self.model = DECODER

    def decode(self, z):
        return self.model(z)

    __call__ = decode


LOCAL = DECODER
FUNCTIONS = {
    "function": decoded,
    "lambda": lambda z: LOCAL(z) * 1.0,
    "partial": functools.partial(decoded, gain=1.0),
    "bound method of a module": DECODER.forward,
    "object that is called": Trainer(),
    "default": lambda z, module=DECODER: module(z),
}


# --- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_read_with_their_modules_in_double_precision(name):
    net = unrelu.from_torch(FUNCTIONS[name], latent_shape=4)
    np.testing.assert_allclose(net(Z), WANTED, rtol=1e-12)
    assert isinstance(net, Network)


def untraced(module):
    """A function that is no chain of layers."""
    return lambda z: module(z) + 0.1 * module(z).square() * len(z) ** 0


def test_layers_of_functions_are_copied():
    """With the modules that they call, in double precision; what these become later is no part of the generator."""
    module = copy.deepcopy(DECODER)
    net = unrelu.from_torch(lambda z: 2 * module(z), 4)
    assert isinstance(net, Network)
    before = net(Z)
    np.testing.assert_allclose(before, 2 * WANTED, rtol=1e-12)
    with torch.no_grad():
        module[0].weight.zero_()
    np.testing.assert_array_equal(net(Z), before)
    assert all(p.dtype == torch.float32 and p.requires_grad and p.grad is None for p in module.parameters())


def test_other_functions_are_called_as_they_are():
    """Weights in single precision are taken in double precision; what modules become later is seen."""
    module = copy.deepcopy(DECODER)
    net = unrelu.from_torch(untraced(module), 4)
    np.testing.assert_allclose(net(Z), WANTED + 0.1 * WANTED**2, rtol=1e-12)
    with torch.no_grad():
        module[0].weight.zero_()
    assert np.ptp(net(Z), axis=0).max() < 1e-6
    module.double()
    net = unrelu.from_torch(lambda z: untraced(module)(z) + z[:, :1], 4)
    x = module(torch.from_numpy(Z)).detach().numpy()
    np.testing.assert_allclose(net(Z), x + 0.1 * x**2 + Z[:, :1], rtol=1e-12)


def test_outputs_of_functions_need_no_gradient_unless_codes_do():
    module = copy.deepcopy(DECODER)
    net = unrelu.from_torch(untraced(module), 4)
    z = torch.from_numpy(Z)
    assert not net.forward(z).requires_grad
    assert not any(x.requires_grad for x in net.linearize(z))
    assert net.forward(z.clone().requires_grad_()).requires_grad


class Heavy(nn.Module):
    """A module with something that cannot be copied."""

    def __init__(self):
        super().__init__()
        self.layer, self.lock = nn.Linear(4, 6), threading.Lock()

    def forward(self, z):
        return self.layer(z) * z[:, :1]


def test_a_module_that_cannot_be_copied_is_called_as_a_function():
    module = made(Heavy)
    with pytest.raises(ModelError, match=r"the Heavy cannot be copied \(TypeError: .*lock.*lambda z: module\(z\)"):
        unrelu.from_torch(module, 4)
    assert unrelu.from_torch(lambda z: 2 * module(z), 4).output_dim == 6


@pytest.mark.parametrize("function", [lambda z, x: DECODER(z) * x, lambda x, z: DECODER(z) * x])
def test_an_input_of_any_name_and_place_is_held_fixed(function):
    net = unrelu.from_torch(function, latent_shape=4, inputs={"x": torch.tensor(2.0)})
    np.testing.assert_allclose(net(Z), 2 * WANTED, rtol=1e-5)


def test_a_function_that_insists_on_single_precision_is_run_so():
    net = unrelu.from_torch(lambda z: nn.functional.silu(z.float() @ WEIGHT.float().T.to(torch.float32)).float(), 4)
    assert net(Z).shape == (3, 30)

    def single(z):
        if z.dtype != torch.float32:
            raise TypeError("float32 only")
        return torch.exp(z @ WEIGHT.to(z).T / 9)

    net = unrelu.from_torch(single, 4)
    r = unrelu.invert(net, net(Z))
    np.testing.assert_allclose(net(r.z), net(Z), rtol=1e-3)


# --- outputs ----------------------------------------------------------------------------------------------------------


def structure(kind):
    return lambda z: kind(DECODER(z), z.sum(1))


STRUCTURES = {
    "tuple": (structure(lambda a, b: (b, a)), 1),
    "list": (structure(lambda a, b: [a, b]), -2),
    "dictionary": (structure(lambda a, b: {"b": b, "a": a}), "a"),
    "object": (structure(lambda a, b: types.SimpleNamespace(b=b, a=a)), "a"),
    "function": (structure(lambda a, b: (b, {"a": [a]})), lambda found: found[1]["a"][0]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_one_output_of_several(name):
    function, output = STRUCTURES[name]
    np.testing.assert_allclose(unrelu.from_torch(function, 4, output=output)(Z), WANTED, rtol=1e-12)


@pytest.mark.parametrize("name", ["tuple", "list", "dictionary", "object"])
def test_without_output_the_message_has_the_call_that_works(name):
    module = STRUCTURES[name][0]
    with pytest.raises(UnsupportedModelError, match=r"it returns an? \w+ with .*\(2, 30\)") as caught:
        unrelu.from_torch(module, 4)
    call = re.search(r"unrelu\.from_torch\(.*\)", str(caught.value))[0]
    assert eval(call, {"unrelu": unrelu, "module": module}).latent_shape == (4,)


# --- further inputs ---------------------------------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = made(nn.Linear, 7, 20)

    def forward(self, z, c, scale=1.0):
        return scale * torch.tanh(self.main(torch.cat([z, c], 1)))


@pytest.mark.parametrize("c", [torch.eye(3)[1], torch.eye(3)[[1]]], ids=["a row", "a batch of one"])
def test_inputs_are_repeated_for_every_code(c):
    net = unrelu.from_torch(Two(), 4, inputs={"c": c, "scale": 2.0})
    codes = torch.cat([torch.from_numpy(Z), torch.eye(3).double()[[1] * 3]], 1)
    np.testing.assert_allclose(net(Z), 2 * torch.tanh(copy.deepcopy(Two().main).double()(codes)).detach(), rtol=1e-12)
    assert isinstance(net, Network)
    c.zero_()
    np.testing.assert_allclose(net(Z), 2 * torch.tanh(copy.deepcopy(Two().main).double()(codes)).detach(), rtol=1e-12)


class Labelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.main, self.table = made(nn.Linear, 4, 20), made(nn.Embedding, 10, 20)

    def forward(self, z, label):
        return torch.tanh(self.main(z)) + self.table(label)


class Powers(nn.Module):
    def forward(self, z, n):
        return torch.cat([z**i for i in range(1, n)], 1)


def test_an_integer_is_passed_as_it_is_or_as_a_label():
    assert unrelu.from_torch(Powers(), 4, inputs={"n": 3}).output_dim == 8
    given = (3, torch.tensor([3]), torch.tensor([4]))
    net, tensor, other = (unrelu.from_torch(Labelled(), 4, inputs={"label": label}) for label in given)
    np.testing.assert_array_equal(net(Z), tensor(Z))
    assert not np.allclose(net(Z), other(Z))


# --- random numbers ---------------------------------------------------------------------------------------------------


class Drawing(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.first, self.last, self.draw = made(nn.Linear, 4, 12), made(nn.Linear, 12, 20), draw

    def forward(self, z, noise=None):
        h = torch.relu(self.first(z))
        return self.last(h + 0.3 * (self.draw(h) if noise is None else noise))


DRAWS = {"randn": lambda h: torch.randn(h.shape[0], 12), "rand_like": torch.rand_like}


@pytest.mark.parametrize("name", DRAWS)
def test_random_draws_are_an_error_that_says_how_to_fix_them(name):
    module = Drawing(DRAWS[name])
    before = torch.get_rng_state()
    for given in (module, lambda z: 2 * module(z)):
        with pytest.raises(UnsupportedModelError, match=r"random numbers; .*inputs=\{'noise': noise\}, or in a f"):
            unrelu.from_torch(given, 4)
    assert torch.equal(before, torch.get_rng_state())
    noise = torch.randn(12, generator=torch.Generator().manual_seed(0))
    net = unrelu.from_torch(module, 4, inputs={"noise": noise})
    np.testing.assert_allclose(unrelu.from_torch(lambda z: module(z, noise), 4)(Z), net(Z), rtol=1e-5, atol=1e-6)


# --- several outputs as named parts -----------------------------------------------------------------------------------


class Heads(nn.Module):
    """A trunk with three heads: a vector, a picture and a number."""

    def __init__(self, kind=dict):
        super().__init__()
        self.trunk, self.vector, self.picture = nn.Linear(4, 9), nn.Linear(9, 5), nn.Linear(9, 6)
        self.kind = kind

    def forward(self, z):
        h = torch.tanh(self.trunk(z))
        return self.kind(vector=self.vector(h), picture=self.picture(h).unflatten(1, (2, 3)), number=h[:, 0])


HEADS = made(Heads)
ENDS = {name: x.detach().numpy() for name, x in copy.deepcopy(HEADS).double()(torch.from_numpy(Z)).items()}


def as_tuple(vector, picture, number):
    return (vector, picture, number)


@pytest.mark.parametrize("kind", [dict, types.SimpleNamespace])
@pytest.mark.parametrize("names", [["vector", "picture", "number"], ["number", "vector"], ("picture",)])
def test_outputs_become_named_parts(kind, names):
    module = copy.deepcopy(HEADS)
    module.kind = kind
    net = unrelu.from_torch(module, 4, output=names)
    assert list(net.parts) == list(names)
    found = net.by_part(net(Z))
    for name in names:
        np.testing.assert_allclose(found[name], ENDS[name], rtol=1e-12)


def test_parts_by_number_and_function_have_names_of_ones_own():
    module = copy.deepcopy(HEADS)
    module.kind = as_tuple
    net = unrelu.from_torch(module, output={"p": 1, "n": -1, "e": lambda x: 10 ** x[0]})
    found = net.by_part(net(Z))
    np.testing.assert_allclose(found["p"], ENDS["picture"], rtol=1e-12)
    np.testing.assert_allclose(found["n"], ENDS["number"], rtol=1e-12)
    np.testing.assert_allclose(found["e"], 10 ** ENDS["vector"], rtol=1e-12)
    assert net.parts == {"p": (2, 3), "n": (), "e": (5,)}
    assert list(unrelu.from_torch(module, output=[2, 0]).parts) == ["2", "0"]
    r = unrelu.invert(net, {"e": found["e"][0], "n": found["n"][0]})
    np.testing.assert_allclose(r.z, Z[0], atol=1e-6)


def test_one_part_of_a_chain_is_read_as_layers():
    net = unrelu.from_torch(HEADS, 4, output=["vector"])
    assert isinstance(net.plain, Network)
    assert net.parts == {"vector": (5,)}


class Trunk(nn.Module):
    """A trunk with two heads of one layer, which end in these activations."""

    def __init__(self, one=None, two=None, deep=False):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 12), nn.LeakyReLU(0.2))
        between = [nn.Linear(12, 12), nn.ReLU()] if deep else []
        self.one = nn.Sequential(nn.Linear(12, 5), *([one] if one else []))
        self.two = nn.Sequential(*between, nn.Linear(12, 6), *([two] if two else []))

    def forward(self, z):
        h = self.trunk(z)
        return self.one(h), self.two(h).unflatten(1, (2, 3))


@pytest.mark.parametrize(
    ("module", "ends"),
    [
        (Trunk, ["identity"]),
        (lambda: Trunk(nn.Sigmoid(), nn.Sigmoid()), ["sigmoid"]),
        (lambda: Trunk(nn.ReLU(), nn.ReLU()), ["relu"]),
        (lambda: Trunk(nn.ReLU()), ["prelu"]),
        (lambda: Trunk(nn.PReLU(5), nn.LeakyReLU(0.3)), ["prelu"]),
        (lambda: Trunk(nn.Sigmoid()), ["sigmoid"]),
        (lambda: Trunk(nn.SiLU(), nn.Sigmoid()), ["swish", "sigmoid"]),
        (lambda: Trunk(deep=True), ["prelu", "identity"]),
    ],
)
def test_heads_are_layers_of_one_chain(module, ends):
    heads = made(module)
    net = unrelu.from_torch(heads, 4, output={"one": 0, "two": 1})
    assert isinstance(net.plain, Network)
    wanted = [x.detach().numpy() for x in copy.deepcopy(heads).double()(torch.from_numpy(Z))]
    for name, x in zip(("one", "two"), wanted, strict=True):
        np.testing.assert_allclose(net.by_part(net(Z))[name], x, rtol=1e-11, atol=1e-13)
    assert [layer.activation.name for layer in net.layers] == ["relu", "leaky_relu", *ends]


def test_without_output_the_message_has_a_call_for_all_parts():
    with pytest.raises(UnsupportedModelError, match="or all of them as named parts") as caught:
        unrelu.from_torch(HEADS, 4)
    listed = re.search(r"output=(\[.*\])", str(caught.value))[1]
    assert eval(listed) == ["vector", "picture", "number"]


# --- refusals ---------------------------------------------------------------------------------------------------------

NO_PICK = "must be a name, a number or a function"
REFUSED = [
    (HEADS, {"output": ["vector", "vector"]}, OptionError, rf"{NO_PICK} .*each name once"),
    (HEADS, {"output": [len]}, OptionError, NO_PICK),
    (HEADS, {"output": ["vector", 1.5]}, OptionError, rf"output=\['vector', 1\.5\] {NO_PICK}"),
    (DECODER, {"output": 1.5}, OptionError, rf"output=1\.5 {NO_PICK}"),
    (HEADS, {"output": ["vector", "scale"]}, UnsupportedModelError,
     r"returns a dict with .*, which has no output='scale'"),
    (HEADS, {"output": {"a": lambda x: x["vector"].sum()}}, UnsupportedModelError,
     r"parts have shapes \{'a': \(\)\}; the first axis"),
    (STRUCTURES["dictionary"][0], {"output": "x"}, UnsupportedModelError,
     r"returns a dict with 'b' \(2,\), 'a' \(2, 30\), which has no output='x'"),
    (Two(), {}, UnsupportedModelError, r"missing 1 .* 'c'; further inputs are held fixed by inputs="),
    (Two(), {"inputs": {"k": torch.zeros(3)}}, ModelError, "unexpected keyword argument 'k'"),
    (Two(), {"inputs": torch.zeros(3)}, OptionError, "inputs must be a dictionary"),
    (Powers(), {"inputs": {"n": 1}}, UnsupportedModelError, "non-empty"),  # an integer that is no label
]  # fmt: skip


@pytest.mark.parametrize(("given", "arguments", "error", "message"), REFUSED)
def test_refused_outputs_and_inputs(given, arguments, error, message):
    with pytest.raises(error, match=message):
        unrelu.from_torch(given, 4, **arguments)
