"""The lists of docs/decoders.md: each line loads its decoder, which computes the same and is inverted."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import unrelu
from tests.ecosystem.decoder_kinds import BUILDERS, Labelled
from unrelu.models.network import Network

PAGE = Path(__file__).parents[2] / "docs" / "decoders.md"
# Name and line of a row of the table of what people download.
ROW = re.compile(r"^\| (.+?) \| `(unrelu[^`]+)` \|$", re.M)
# Heading, name, whether it is opaque, line.
ITEM = re.compile(r"^### (.+)$|^- (.+?)( \(opaque\))?:\n  `([^`]+)`$", re.M)


def listed() -> list[tuple[str, str, str, bool]]:
    """Kind, name and line of each decoder on the page, and whether its layers are read."""
    items, kind = [], ""
    section = PAGE.read_text(encoding="utf-8").split("## One line each")[1].split("\n## ")[0]
    for heading, name, opaque, line in ITEM.findall(section):
        kind = heading or kind
        if line:
            items.append((kind, name, line, not opaque))
    return items


def downloaded() -> list[tuple[str, str, str, bool]]:
    """The same of the table of what people download."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8").split("## What you downloaded")[1].split("\n## ")[0])
    chains = ("pythae", "DCGAN", "model.pt", "class-conditional")
    return [("Downloaded", name, line, any(word in name for word in chains)) for name, line in rows]


ROWS = [*listed(), *downloaded()]


def test_the_page_has_five_decoders_of_each_kind():
    assert Counter(kind for kind, *_ in listed()) == dict.fromkeys(
        ["Sequential", "Convolutional", "Residual", "Structured output", "Further inputs", "Jit, export",
         "Keras, other layouts", "Half precision"], 5
    )  # fmt: skip
    assert sorted(name for _, name, *_ in ROWS) == sorted(BUILDERS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("kind", "name", "line", "layers"), ROWS, ids=[row[1] for row in ROWS])
def test_a_decoder_is_loaded_in_a_line_and_inverted(tmp_path, kind, name, line, layers):
    names, outputs = BUILDERS[name](tmp_path)
    net = eval(line, {"unrelu": unrelu, "torch": torch, **names})
    assert isinstance(net, Network) == layers
    half = kind == "Half precision"
    z = np.random.default_rng(21).standard_normal((2, net.latent_dim))
    z = torch.from_numpy(z).to(torch.bfloat16).double().numpy() if half else z
    y = net(z) if outputs is None else outputs(z).reshape(2, *net.output_shape)
    if not half:
        np.testing.assert_allclose(net(z), y, rtol=1e-6, atol=1e-7 * np.abs(y).max())
    r = unrelu.invert(net, y)
    size = np.linalg.norm(y.reshape(2, -1), axis=1)
    allowed = net.rounding.level * np.sqrt(net.output_dim) if half else 1e-4 * size
    assert (r.residual() <= allowed).all()
    assert r.success.all()
    assert not half or {str(status) for status in r.status} == {"NOISE_LEVEL"}


def test_the_class_of_an_output_is_the_one_that_explains_it_best():
    generator = Labelled().eval()
    nets = [unrelu.from_torch(generator, 4, inputs={"label": c}) for c in (2, 3, 4)]
    z, noise = np.random.default_rng(4).standard_normal((2, 40))
    y = nets[1](z[:4]) + 0.05 * noise
    results = [unrelu.invert(net, y, noise="gaussian:0.05", learn=False) for net in nets]
    assert [r.fun for r in results].index(min(r.fun for r in results)) == 1
    assert [bool(r.success) for r in results] == [False, True, False]


def test_a_label_as_a_part_of_the_code():
    generator = Labelled().eval()
    table = generator.table.weight

    def mixed(v):
        return generator.last(torch.relu(generator.first(v[:, :4])) * (1 + v[:, 4:].softmax(1) @ table))

    net, code = unrelu.from_torch(mixed, latent_shape=14), np.zeros(14)
    code[:4], code[4 + 7] = np.random.default_rng(5).standard_normal(4), 40.0
    of_class = unrelu.from_torch(generator, 4, inputs={"label": 7})
    np.testing.assert_allclose(net(code), of_class(code[:4]), rtol=1e-10, atol=1e-10)


def test_the_prior_of_styles_says_where_searches_start():
    """Styles are within 0.1 of 100, far from any code of N(0, I)."""
    names, _ = BUILDERS["a StyleGAN in W+, from standardised styles"](Path())
    synthesis, mean, std = names["generator"].synthesis, np.full((3, 8), 100.0), np.full((3, 8), 0.1)
    net = unrelu.from_torch(lambda w: synthesis(10 * (w - 100)), latent_shape=(3, 8))
    random = np.random.default_rng(6)
    w = mean + std * random.standard_normal((3, 8))
    y = net(w) + 0.01 * random.standard_normal(80)
    r = unrelu.invert(net, y, noise="gaussian:0.01", prior=unrelu.Normal(mean, std), learn=False)
    assert r.success
    assert np.abs(r.z - mean).max() < 2
    t = unrelu.from_torch(lambda t: synthesis(10 * (t * 0.1)), latent_shape=(3, 8))
    np.testing.assert_allclose(t((r.z - mean) / std), net(r.z), rtol=1e-8, atol=1e-8)
