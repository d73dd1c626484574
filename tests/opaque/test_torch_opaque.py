"""What ``from_torch`` asks of a module that is no chain of layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.opaque_modules import OPAQUE, Attention, Function, Residual, Rounded, codes, made
from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders import from_torch


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z, w: (z + torch.randn_like(z)) @ w.T, "it draws random numbers; a generator must be deterministic"),
        (lambda z, w: z.sinh() * np.random.default_rng().normal(), "a second evaluation gives another output"),
        (lambda z, w: z.sinh() - z.mean(0), "an input has another output alone than in a batch"),
        (lambda z, w: z if z.sum() > 0 else -z, "an input has another output alone than in a batch"),
        (lambda z, w: z.sinh().squeeze(), "maps inputs of shape|another output alone"),
        (lambda z, w: z.sinh().detach(), "its derivative is off by 1 of that of finite|cannot be differentiated"),
        (lambda z, w: z.sinh().detach() + z, "its derivative is off by"),
        (lambda z, w: z.sinh() + (z.round() - z).detach(), "its derivative is off by"),
        (lambda z, w: z.sinh().sign() * (z > 0) + z.round(), "its derivative is zero at random inputs, though"),
        (lambda z, w: Rounded.apply(5 * z).sinh(), "its derivative is off by"),
        (lambda z, w: torch.log(z), "it maps codes drawn from N.0, I. to NaN or infinite numbers"),
        (lambda z, w: torch.fft.fft(z), "kind torch.complex128, torch.strided; a generator returns"),
        (lambda z, w: z.argmax(1, keepdim=True), "kind torch.int64"),
        (lambda z, w: (z.sinh().tolist(), 3), "it returns a tuple; a generator returns one tensor"),
        (lambda z, w: z.sinh().numpy(), "ndarray|raises"),
        (lambda z, w: z.sinh().sum(), r"maps inputs of shape \(2, 3\) to a tensor of shape \(\); the batch axis must"),
        (lambda z, w: z.sinh().T, r"maps inputs of shape \(2, 3\) to a tensor of shape \(3, 2\)"),
        (lambda z, w: z * 0 * z + w.sum(), "two random inputs have the same output"),
        (lambda z, w: z.relu() @ w.T if len(z) > 1 else z @ w.T, "an input has another output alone than in a batch"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors")
def test_refused(function, message):
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        from_torch(Function(function).eval(), 3)
    assert str(caught.value).count("without known layers") <= 1


def test_a_module_without_layers_of_chance_is_taken_in_evaluation_mode():
    net = from_torch(made(Residual).train(), 5)
    np.testing.assert_array_equal(net(codes(net)), OPAQUE["residual"](codes(net)))
    assert not any(m.training for m in net.module.modules())


def test_weights_are_finite_but_masks_need_not_be():
    module = made(Attention)
    assert torch.isinf(module.mask).any()
    module.mask[0, 0] = torch.nan
    with pytest.raises(ModelError, match="1 of 25 entries of 'mask' are NaN or infinite"):
        from_torch(module, 6)
    module = made(Residual)
    with torch.no_grad():
        module.leave.weight[:2, 3] = torch.inf
    with pytest.raises(ModelError, match=r"2 of 960 entries of 'leave\.weight' are NaN or infinite") as caught:
        from_torch(module)
    assert type(caught.value) is ModelError


def test_a_code_next_to_a_kink_refuses_no_function_in_single_precision():
    """Without biases, all multiples of a code are next to the same kinks."""
    seen = []

    def tried(z):
        seen.append(z.detach().double().clone())
        return z.flip(1) if z.isfinite().all() else z

    from_torch(tried, 3)
    code = next(z for z in reversed(seen) if len(z) == 2)[0]
    rows = torch.linalg.svd(code[None])[2][1:]  # orthogonal to the code
    weights = torch.cat([rows, -rows, torch.eye(3, dtype=torch.double)]).float()

    def kinked(z):
        return torch.relu(z @ weights.T) if z.isfinite().all() else z

    net = from_torch(kinked, 3)
    z = np.array([[0.3, -1.0, 2.0]])
    np.testing.assert_allclose(net(z), np.maximum(z @ weights.double().numpy().T, 0), atol=1e-6)
