"""Codes go in and come out in the latent shape of their generator, and are taken flat."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import unrelu
from unrelu.cli import process
from unrelu.errors import InputError
from unrelu.report.certificates import draw_box
from unrelu.result import Inversion
from unrelu.runtime.streams import torch_stream


class Skip(nn.Module):
    """A generator that is no chain, of codes (2, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 10).double(), nn.Linear(10, 10).double()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = nn.functional.leaky_relu(self.first(z.flatten(1)), 0.3)
        return (h + self.second(h)).unsqueeze(1).amax(1)  # a maximum of one entry each, which no layer can do


def _convolutional() -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2))


def _filled(module: nn.Module) -> nn.Module:
    generator = torch_stream("latent shapes")
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return module.eval()


NETS = {
    "one row": unrelu.from_torch(_filled(nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 20))), (1, 3)),
    "pixel": unrelu.from_torch(_filled(_convolutional()), (3, 1, 1)),
    "opaque": unrelu.from_torch(_filled(Skip()), (2, 2)),
}
each = pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())


def codes(net: unrelu.Generator, size: int = 3) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((size, *net.latent_shape))


@each
def test_a_generator_takes_codes_in_their_shape_and_flat(net):
    z = codes(net)
    flat = z.reshape(3, -1)
    x = net(z)
    assert x.shape == (3, *net.output_shape)
    np.testing.assert_array_equal(net(flat), x)
    assert net(z[1]).shape == net(flat[1]).shape == net.output_shape
    np.testing.assert_array_equal(net(z[1]), net(flat[1]))
    assert net(z[:1]).shape == net.outputs(flat[:1]).shape == (1, *net.output_shape)
    np.testing.assert_array_equal(net.jacobian(z), net.jacobian(flat))
    assert net.jacobian(z[0]).shape == (net.output_dim, net.latent_dim)


@each
def test_other_shapes_are_refused_with_both(net):
    one = str(net.latent_shape).strip("()")
    with pytest.raises(InputError, match=rf"z has shape \(7,\); .* codes of shape \({one}\) or \(B, {one}\)"):
        net(np.ones(7))
    swapped = np.ones((*net.latent_shape, 1, 1))
    with pytest.raises(InputError, match=rf"z\.reshape\({one}\)"):
        net(swapped)


@each
@pytest.mark.parametrize("method", ["auto", "lm"])
def test_a_result_has_the_latent_shape(net, method, tmp_path):
    z = codes(net)
    seen: list[tuple[int, ...]] = []
    start = {} if method == "auto" else {"z0": z + 0.01}
    r = unrelu.invert(net, net(z), method, callback=lambda p: seen.append(p.z.shape), **start)
    assert r.z.shape == z.shape == r.active_bounds.shape
    assert set(seen) == {z.shape}
    assert r[1].z.shape == net.latent_shape
    assert [part.z.shape for part in r] == [net.latent_shape] * 3
    assert r[r.success].z.shape[1:] == net.latent_shape
    np.testing.assert_allclose(net(r.z), r.reconstruction, rtol=1e-12, atol=1e-12)
    assert np.isfinite(r.residual()).all()
    assert r.to_frame(codes=True).filter(regex=r"^z\d+$").shape == (3, net.latent_dim)
    assert "EXACT_FIT" in str(r[0])
    assert "<img" in r._repr_html_()
    r.save(tmp_path / "r.npz")
    again = unrelu.load_result(tmp_path / "r.npz", net)
    np.testing.assert_array_equal(again.z, r.z)
    np.testing.assert_array_equal(np.load(tmp_path / "r.npz")["z"], r.z)
    one = unrelu.invert(net, net(z[0]), method, **{name: start[0] for name, start in start.items()})
    assert one.z.shape == net.latent_shape
    one.save(tmp_path / "one.npz")
    assert unrelu.load_result(tmp_path / "one.npz").z.shape == net.latent_shape


@each
def test_starts_and_bounds_have_it_too(net):
    z = codes(net)
    y = net(z)
    lower, upper = z.min(axis=0) - 0.5, z.max(axis=0) + 0.5
    shaped = unrelu.invert(net, y, "lm", z0=z + 0.01, bounds=(lower, upper))
    flat = unrelu.invert(net, y, "lm", z0=(z + 0.01).reshape(3, -1), bounds=(lower.ravel(), upper.ravel()))
    np.testing.assert_array_equal(shaped.z, flat.z)
    np.testing.assert_allclose(shaped.z, z, atol=1e-6)
    alike = unrelu.invert(net, y, "lm", z0=z[0], max_iterations=3)
    np.testing.assert_array_equal(alike.z, unrelu.invert(net, y, "lm", z0=np.stack([z[0]] * 3), max_iterations=3).z)
    with pytest.raises(InputError, match=r"z0 has 2 codes; pass .* for all observations or \(3, "):
        unrelu.invert(net, y, "lm", z0=z[:2])


def test_a_method_of_ones_own_returns_flat_codes_or_shaped_ones():
    net = NETS["pixel"]
    z = codes(net)
    for returned in (z, z.reshape(3, -1)):
        r = unrelu.invert(net, net(z), lambda problem, found=returned: Inversion.of(problem, found, method="own"))
        np.testing.assert_array_equal(r.z, z)
        assert r.success.all()


def test_layer_wise_starts_lead_to_it():
    net = NETS["one row"]
    z = codes(net)
    assert unrelu.invert(net, net(z), "lm", start="linf").z.shape == z.shape


@pytest.mark.parametrize("name", ["one row", "pixel"])
def test_a_certificate_has_it(name, tmp_path):
    net = NETS[name]
    z, shape = codes(net)[0], net.latent_shape
    y = net(z) + 0.01
    r = unrelu.invert(net, y, noise="uniform:0.02", bounds=(-4, 4))
    c = unrelu.certify(net, y, r, max_nodes=50)
    assert (c.z.shape, c.box.shape, c.bounds.shape) == (shape, (*shape, 2), (*shape, 2))
    assert ((c.box[..., 0] <= z) & (z <= c.box[..., 1])).all()
    c.save(tmp_path / "c.npz")
    again = unrelu.Certificate.load(tmp_path / "c.npz")
    assert again.verify(net, y)
    assert (again.z.shape, again.box.shape) == (shape, (*shape, 2))
    assert "every code" in str(c)
    assert not c.rescaled(0, (3,)).verify(net, y)
    assert len(draw_box(c).axes[0].lines[0].get_xdata()) == net.latent_dim


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_and_the_command_line_write_it(tmp_path, monkeypatch, capsys):
    net, z = NETS["pixel"], codes(NETS["pixel"])
    run = unrelu.run(net, net(z), tmp_path / "run", method="lm", workers=1)
    assert unrelu.open_run(tmp_path / "run").read("codes").shape == run.read("codes").shape == z.shape
    torch.onnx.export(_filled(_convolutional()), (torch.zeros(2, 3, 1, 1),), tmp_path / "net.onnx", dynamo=False)
    np.save(tmp_path / "y.npy", net(z)[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["unrelu", "invert", "net.onnx", "y.npy", "-o", "o", "--json"])
    with pytest.raises(SystemExit):
        process.main()
    found = json.loads(capsys.readouterr().out)
    assert np.shape(found["observations"][0]["z"]) == np.load(tmp_path / "o" / "codes.npy").shape == (3, 1, 1)
