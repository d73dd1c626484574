"""The benchmark of styled generators and decoders: its generators have the parts that they are named after."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unrelu_studies.benchmarks.large_generators.styled_generators import GENERATORS, generator, rows


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_are_functions_of_their_code(name):
    module, shape, z = generator(name, True, 3)
    again, _, same = generator(name, True, 3)
    assert z.shape == (1, *shape)
    assert torch.equal(z, same)
    assert torch.equal(module(z), again(z))
    both = module(torch.cat([z, -z]))
    torch.testing.assert_close(both[:1], module(z), rtol=1e-4, atol=1e-4)
    assert (both[0] - both[1]).abs().max() > 0.1


def test_w_plus_with_equal_styles_is_w_and_z_is_w_of_the_mapping():
    z, w, plus = (generator(f"styled, {codes}", True, 3)[0] for codes in ("Z", "W", "W+"))
    w.load_state_dict(z.state_dict())
    plus.load_state_dict(z.state_dict())
    code = torch.linspace(-1, 1, 64)[None]
    style = z.mapped(code)
    torch.testing.assert_close(w(style), z(code))
    torch.testing.assert_close(plus(style[:, None].expand(1, plus.layers, 64)), z(code))
    torch.testing.assert_close(z(3 * code), z(code))  # the pixel norm


def test_demodulation_undoes_a_common_scale_of_the_styles():
    layer = generator("styled, W", True, 3)[0].blocks[0].convolutions[0]
    w, x = torch.ones(1, 64), torch.ones(1, 16, 4, 4)
    scaled = layer(x, w)
    layer.style.weight.mul_(2)
    layer.style.bias.mul_(2).add_(1)  # 1 + style(w) is twice as large
    torch.testing.assert_close(layer(x, w), scaled)


def test_rows():
    (row,) = rows(True, 1, ("styled, W",))
    assert row["latents"] == [64]
    assert row["outputs"] == [3, 8, 8]
    assert len(row["objective_lbfgs"]) == 3
    assert min(row["lbfgs"], row["first"], row["second"]) > 0
    assert np.isfinite(row["objective"]).all()
    assert max(row["objective"]) < 0.5
