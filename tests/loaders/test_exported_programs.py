"""Programs of torch.export, as objects and files; what a file may not do."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from tests.opaque_modules import GENERATORS, OPAQUE, codes, made
from unrelu.errors import ModelError, ModelFileError, UnsupportedModelError
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


def saved(path, program):
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_program_of_layers_is_read_as_layers(tmp_path, dynamic):
    module = made(chain)
    program = exported(module, (4,), dynamic)
    reference = unrelu.from_torch(module)
    z = codes(reference)
    for net in (unrelu.from_torch(program), unrelu.load(saved(tmp_path / "net.pt2", program))):
        assert isinstance(net, Network)
        np.testing.assert_allclose(net(z), reference(z), rtol=1e-12)
        assert len(net.layers) == len(reference.layers)


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("name", GENERATORS)
def test_a_program_that_branches_is_a_generator(tmp_path, name, dynamic):
    """One that was exported for a batch of one is evaluated for batches of any size."""
    module, shape, _ = GENERATORS[name]
    program = exported(module, shape, dynamic)
    z = codes(OPAQUE[name])
    for net in (unrelu.from_torch(program), unrelu.load(saved(tmp_path / "net.pt2", program))):
        np.testing.assert_allclose(net(z), OPAQUE[name](z), rtol=1e-9, atol=1e-12)
        assert net.latent_shape == shape
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_allclose(again(z), net(z), rtol=1e-12)


class Converted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 30)
        self.register_buffer("levels", torch.full((30,), 200, dtype=torch.uint8))

    def forward(self, z):
        h = self.layer(z)
        on = (h > 0).to(h.dtype)
        return h * on + 0.1 * h * (1.0 - on) + 2 * self.levels.to(h.dtype)


def test_whole_numbers_and_truth_values_become_real_ones(tmp_path):
    module = made(Converted)
    program = torch.export.export(module, (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "converted.pt2")
    z = np.random.default_rng(3).standard_normal((4, 3))
    wanted = module.double()(torch.from_numpy(z)).detach().numpy()
    for net in (unrelu.from_torch(program), unrelu.load(tmp_path / "converted.pt2")):
        np.testing.assert_allclose(net(z), wanted, rtol=1e-12)
        assert net.to(torch.float32)(z).shape == wanted.shape


def test_several_outputs_and_inputs():
    class Two(nn.Module):
        def forward(self, z, c):
            return z.exp() * c, z

    both = torch.export.export(Two(), (torch.zeros(1, 3), torch.ones(1, 3)))
    with pytest.raises(UnsupportedModelError, match=r"takes 2 inputs \(z, c\); export one that takes the code alone"):
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


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_module_of_a_program_has_the_layers_of_the_program(dynamic):
    program = exported(made(chain), (4,), dynamic)
    net, direct, z = unrelu.from_torch(program.module()), unrelu.from_torch(made(chain)), np.ones((3, 4))
    assert isinstance(net, unrelu.Network)
    assert [str(layer) for layer in net.layers] == [str(layer) for layer in unrelu.from_torch(program).layers]
    np.testing.assert_allclose(net(z), direct(z), rtol=1e-12)
    with pytest.raises(ModelError, match=r"latent_shape=\(7,\), but the program takes codes of shape \(4,\)"):
        unrelu.from_torch(program.module(), 7)


def test_the_module_of_a_program_that_counts_its_calls():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, z):
            self.calls.add_(1)
            return (z.exp(), z, z.exp())

    program, z = torch.export.export(Counting(), (torch.zeros(1, 3),)), np.ones((2, 3))
    for given in (program, program.module()):
        np.testing.assert_allclose(unrelu.from_torch(given, output=2)(z), np.exp(z))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program():
    return exported(made(chain), (4,), True)


def changed(path, program, change):
    """The file with some of its records changed, added or dropped (None)."""
    stored = io.BytesIO()
    torch.export.save(program, stored)
    with zipfile.ZipFile(stored) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(records)).partition("/")[0]
    short = {name.partition("/")[2]: content for name, content in records.items()}
    change(short)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in short.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def edit(name, function):
    def change(records):
        value = json.loads(records[name])
        function(value)
        records[name] = json.dumps(value).encode()

    return change


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def node_target(target):
    return edit(MODEL, lambda m: m["graph_module"]["graph"]["nodes"][1].update(target=target))


def weight(**entries):
    def function(config):
        entry = config["config"]["0.weight"]
        for key, value in entries.items():
            (entry if key in entry else entry["tensor_meta"])[key] = value

    return edit(WEIGHTS, function)


REFUSED = [
    (node_target("torch.ops.aten.from_file.default"), UnsupportedModelError, r"calls torch.*from_file\.default"),
    (node_target("torch.ops.higher_order.call_torchbind"), UnsupportedModelError, "not among known operators"),
    (node_target("os.system"), UnsupportedModelError, r"calls os\.system, which is not among known operators"),
    (weight(use_pickle=True), ModelFileError, r"holds pickled objects \(0\.weight\).*torch\.export\.load"),
    (weight(sizes=[{"as_int": 10**6}, {"as_int": 10**6}]), ModelFileError, "its record has 512 bytes"),
    (weight(storage_offset={"as_int": 10**6}), ModelFileError, "not a .pt2 file"),
    (weight(strides=[{"as_int": 10**6}, {"as_int": 1}]), ModelFileError, "not a .pt2 file"),
    (lambda r: r.update({"data/aotinductor/model/a.so": b"x"}), ModelFileError, "holds compiled libraries"),
    (lambda r: r.update({"byteorder": b"big"}), ModelFileError, "big-endian"),
    (lambda r: r.pop(MODEL), ModelFileError, "not a .pt2 file"),
    (lambda r: r.update({MODEL: b"{"}), ModelFileError, "not a .pt2 file"),
    (lambda r: r.update({MODEL: b'{"graph_module": 3}'}), ModelFileError, "not a .pt2 file"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), REFUSED)
def test_what_a_file_may_not_do(tmp_path, program, change, error, message):
    path = changed(tmp_path / "net.pt2", program, change)
    with pytest.raises(error, match=message) as caught:
        unrelu.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_example_inputs_are_not_unpickled(tmp_path, program):
    """PyTorch's own reader unpickles them, restricted first and then without restriction."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    content = io.BytesIO()
    torch.save(Bomb(), content)
    path = changed(
        tmp_path / "net.pt2", program, lambda r: r.update({"data/sample_inputs/model.pt": content.getvalue()})
    )
    assert unrelu.load(path).latent_shape == (4,)
    assert not (tmp_path / "opened").exists()


def test_no_tensor_is_larger_than_allowed(tmp_path):
    class Large(nn.Module):
        def forward(self, z):
            return (z.repeat(1, 10**6) * torch.ones(10**6 * 3)).sum(1, keepdim=True) + z

    path = saved(tmp_path / "net.pt2", torch.export.export(Large(), (torch.zeros(1, 3),)))
    with pytest.raises(
        UnsupportedModelError, match=r"a tensor that would take 22\.89 MiB for one code, by aten\.\w+.*; at most 1 MiB"
    ):
        unrelu.load(path, max_bytes=2**20)


def test_truncated(tmp_path, program):
    whole = saved(tmp_path / "net.pt2", program).read_bytes()
    for length in range(0, len(whole), len(whole) // 12):
        (tmp_path / "net.pt2").write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            unrelu.load(tmp_path / "net.pt2")


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
    path = saved(tmp_path / "net.pt2", program)
    named = {"one": 0, "two": 1}
    for net in (unrelu.from_torch(program, output=named), unrelu.load(path, output=named)):
        assert net.parts == reference.parts
        np.testing.assert_allclose(net(z), reference(z), rtol=1e-12)
    assert isinstance(unrelu.load(path, output=1), Network)
    with pytest.raises(UnsupportedModelError, match=r"it returns a tuple with 0 \(2, 5\), 1 \(2, 6\); say which"):
        unrelu.load(path)
