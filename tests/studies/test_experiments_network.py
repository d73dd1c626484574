"""Figures 1(c), 1(d), 3 and 4 on a generator from a file: what is run, what numbers and page say, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from unrelu.cli._app import app
from unrelu.errors import InputError, OptionError
from unrelu_studies.kit.method_labels import METHODS
from unrelu_studies.kit.numbers_file import Numbers
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.trained_generators import from_file, from_record
from unrelu_studies.paper import ON_A_NETWORK, load
from unrelu_studies.paper.figures import figure4
from unrelu_studies.paper.reproduction_page import page

K, HIDDEN, PIXELS = 4, 12, 784
DECODER = ("fc3", "fc4")


def weights() -> dict[str, np.ndarray]:
    """An autoencoder without biases, whose decoder is fc3 and fc4."""
    rng = random("weights", 0, "a user's network")
    sizes = {"fc1": (10, PIXELS), "fc2": (K, 10), "fc3": (HIDDEN, K), "fc4": (PIXELS, HIDDEN)}
    return {f"{name}.weight": rng.normal(0, shape[0] ** -0.5, shape) for name, shape in sizes.items()}


def saved(folder: Path, suffix: str) -> Path:
    path, arrays = folder / f"decoder.{suffix}", weights()
    if suffix == "npz":
        np.savez(path, **arrays)
    else:
        torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


def reproduce(*arguments: str):
    return CliRunner().invoke(app, ["reproduce", *arguments])


@pytest.mark.parametrize("suffix", ["pth", "npz"])
def test_a_decoder_is_picked_out_of_a_file(tmp_path, suffix):
    generator = from_file(str(saved(tmp_path, suffix)), "fc3,fc4", "relu")
    network = generator.load()
    for layer, name in zip(network.layers, DECODER, strict=True):
        np.testing.assert_allclose(layer.matrix(), weights()[f"{name}.weight"], rtol=1e-6)
    assert generator.sizes == (K, HIDDEN, PIXELS)
    # What the numbers say of it is enough for the page, and no path.
    again = from_record(generator.record)
    assert again.record == generator.record
    assert str(tmp_path) not in json.dumps(generator.record)
    for name in ON_A_NETWORK:
        titles = {load(name, g).title for g in (generator, again)}
        assert len(titles) == 1
        assert f"decoder.{suffix}, {K}-{HIDDEN}-{PIXELS}" in titles.pop()


@pytest.mark.parametrize("name", ON_A_NETWORK)
def test_a_leaky_network_is_taken(tmp_path, name):
    generator = from_file(str(saved(tmp_path, "pth")), "fc3,fc4", "leaky_relu:0.1")
    experiment = load(name, generator)
    assert {unit[0] for unit in experiment.units(True)} == {"decoder.pth"}
    assert generator.load().layers[0].activation.slope == 0.1


@pytest.fixture
def few_steps(monkeypatch):
    """Gradient descent and projections of some steps: what the figures say of it is tested elsewhere."""
    short = {"max_iterations": 20}
    for table in (METHODS, figure4._RUN):
        for label, (method, options) in table.items():
            if method in ("gradient_descent", "projected", "adam"):
                monkeypatch.setitem(table, label, (method, {**options, **short}))


@pytest.mark.long
@pytest.mark.usefixtures("few_steps")
def test_figures_run_on_a_file(tmp_path, monkeypatch):
    path = saved(tmp_path, "pth")
    monkeypatch.chdir(tmp_path)
    names = ("fig1c", "fig3", "fig4")
    options = ("--network", str(path), "--layers", "fc3,fc4", "--activation", "relu", "--quick", "--workers", "1")
    result = reproduce(*names, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    # A folder of its own: numbers of our networks are nowhere written over.
    folder = tmp_path / "reproduction-decoder"
    assert {p.suffix for p in folder.iterdir()} == {".json", ".png", ".svg", ".md"}
    text = (folder / "reproduction.md").read_text(encoding="utf-8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest[:12] in text
    for name in names:
        numbers = Numbers.load(folder / f"{name}.json")
        assert numbers.network["name"] == "decoder.pth"
        assert numbers.network["sha256"] == digest
        assert numbers.distinct("generator") == ["decoder.pth"]
        assert str(tmp_path) not in (folder / f"{name}.json").read_text(encoding="utf-8")
    assert text.count(f"decoder.pth, {K}-{HIDDEN}-{PIXELS}") >= len(names)
    assert text == page(folder, "")
    # Finished numbers are drawn again; those of another network, or of ours, are another run.
    assert reproduce("fig1c", *options).exit_code == 0
    other = saved(tmp_path, "npz").rename(tmp_path / "other.npz")
    arguments = [str(other) if option == str(path) else option for option in options]
    for more in (arguments, ["--quick"]):
        result = reproduce("fig1c", *more, "-o", str(folder))
        assert isinstance(result.exception, InputError)
        assert "network is" in str(result.exception)


def test_a_network_of_another_size_is_an_error(tmp_path):
    path = saved(tmp_path, "pth")
    result = reproduce("fig3", "--network", str(path), "--layers", "fc3", "--activation", "relu")
    assert isinstance(result.exception, InputError)
    assert f"gives outputs of shape ({HIDDEN},)" in str(result.exception)
    assert "--layers" in str(result.exception)


def test_an_experiment_with_networks_of_its_own_is_an_error(tmp_path):
    options = ("--network", str(saved(tmp_path, "npz")), "--layers", "fc3,fc4", "--activation", "relu")
    for names in (["fig1c", "fig2a"], ["all"]):
        result = reproduce(*names, *options, "-o", str(tmp_path / "out"))
        assert isinstance(result.exception, OptionError)
        assert "--network goes with fig1c, fig1d, fig3, fig4" in str(result.exception)
    assert not (tmp_path / "out").exists()
