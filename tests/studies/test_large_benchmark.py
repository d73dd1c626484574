"""The generator of the benchmark of large ones: what the tutorial has, and whether its weights come from the seed."""

from __future__ import annotations

import pytest
import torch

import unrelu
from unrelu_studies.benchmarks.benchmark import load
from unrelu_studies.benchmarks.searches.large import WEIGHTS, generator


def test_the_generator_is_that_of_the_tutorial():
    module = generator("tutorial", 512, 0)
    assert sum(p.numel() for p in module.parameters()) == 3_576_704
    assert module(torch.zeros(1, 100, 1, 1)).shape == (1, 3, 64, 64)
    # Products with 4 x 4 kernels: once for the first layer, then for each pixel of the layer below.
    sizes = [(100, 512, 1), (512, 256, 16), (256, 128, 64), (128, 64, 256), (64, 3, 1024)]
    network = unrelu.from_torch(module, latent_shape=(100, 1, 1))
    assert network.work == sum(16 * a * b * pixels for a, b, pixels in sizes)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_come_from_the_seed(weights):
    z = torch.ones(1, 100, 1, 1)
    x, again, other = (generator(weights, 16, seed)(z) for seed in (1, 1, 2))
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    assert torch.isfinite(x).all()


def test_the_table_has_mean_ratios_and_the_worst_residual():
    row = {
        "weights": "He", "noise": 0.1, "adam": 4.0, "first": 2.0, "second": 1.0, "residual_adam": 0.5,
        "residual": [0.25, 0.3],
    }  # fmt: skip
    table = load("large").blocks["large"]({"adam": [row, {**row, "first": 4.0, "residual": [0.2, 0.2]}]})
    assert "| He | 0.1 | 4.0 | 0.75 | 0.25 | 5.0e-01 | 3.0e-01 |" in table
