"""A PyTorch module or function as an opaque generator, or a part of one, if a trial shows that it is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.models.affine import Shape, check_finite
from unrelu.models.generator import Operations, tensors
from unrelu.models.module_copies import in_double, replica
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import as_module, described, outputs
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream

# Outputs that should be equal may differ by this share of the largest: a module may compute in float32 inside.
_SAME = 1e-5
# Derivatives may differ from central differences by this share of the largest, for one of the steps: long ones are off
# by curvature and kinks, short ones by rounding.
_CLOSE = 1e-3
_STEPS = (1e-6, 1e-8, 1e-4, 1e-3, 1e-2)
# Codes that are tried in turn, as multiples of the first: a kink may be that near by chance.
_SCALES = (1.0, 0.9, 1.1)


def opaque(module: nn.Module, latent_shape: Shape, reason: str) -> OpaqueNetwork:
    """The module as a generator that can only be evaluated and differentiated.

    It is copied, and tried at two codes in float64: it has to map (2, *latent_shape) to finite numbers of shape
    (2, ...), each row on its own and the same ones each time, with derivatives that agree with finite differences.

    Args:
        module: in evaluation mode; not changed.
        latent_shape: shape of one code.
        reason: why it is no chain of layers.

    Raises:
        UnsupportedModelError: the trial failed; the message has the reason as well.
        ModelError: weights are not finite, or the module is in training mode and computes something else there.
    """
    for name, parameter in module.named_parameters():
        check_finite(parameter, repr(name))
    for name, buffer in module.named_buffers():  # which may be infinite on purpose, as masks of attention are
        check_finite(buffer.masked_fill(buffer.isinf(), 0), repr(name))
    codes = _trial_codes(latent_shape)
    _check_result(in_double(module).eval(), codes)
    try:
        # What a chain could be made of instead is no part of the reason.
        return _CODES.network(module, codes, reason.partition("; supported")[0])
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{reason}; as a generator without known layers it fails too: {error}") from error


def _trial_codes(latent_shape: Shape) -> Tensor:
    """Two codes, (2, *latent_shape)."""
    z = torch.from_numpy(stream("trial codes").standard_normal((1, int(np.prod(latent_shape)))))
    # They have opposite signs, so that no condition on the sum of a batch comes out the same in the batch and alone.
    return torch.cat([z, -0.7 * z]).reshape(2, *latent_shape)


def check_mode(module: nn.Module, latent_shape: Shape) -> None:
    """Refuse a module in training mode that computes something else there than in evaluation mode.

    Raises:
        ModelError: it is one.
    """
    _CODES.check_mode(module, _trial_codes(latent_shape))


def _check_result(module: nn.Module, codes: Tensor) -> None:
    """Refuse a module that returns several tensors, of which one has to be picked.

    Raises:
        UnsupportedModelError: it does; the message lists them.
    """
    try:
        with torch.no_grad():
            result = module(codes.clone())
    except UnsupportedModelError:  # of an output that it has not
        raise
    except Exception:  # the trial tells it
        return
    found = [] if isinstance(result, Tensor) else outputs(result)
    if found:
        key = next((key for key, value in found if value.dim() and len(value) == len(codes)), found[0][0])
        raise UnsupportedModelError(
            f"for {len(codes)} codes it returns {described(result)}; say which is the output: "
            f"unrelu.from_torch(module, latent_shape={tuple(codes.shape[1:])}, output={key!r})"
        )


@dataclass(frozen=True)
class Trial:
    """What a module is tried as, in the words of its messages.

    Attributes:
        whole: what it is.
        given, result: what it takes and gives, a row each.
        drawn: where the inputs come from.
        remedy: what can be done about random numbers.
    """

    whole: str = "generator"
    given: str = "code"
    result: str = "output"
    drawn: str = "codes drawn from N(0, I)"
    remedy: str = ""

    def network(
        self, function: Callable[..., Any], z: Tensor, reason: str, lengths: Tensor | float = 1.0
    ) -> OpaqueNetwork:
        """A module or function of rows z (2, ...) that can be evaluated and differentiated, if it passes.

        It is run in copies, in float64: modules may keep what they computed.

        Args:
            function: it.
            z: what it is tried on.
            reason: why it is no chain of layers.
            lengths: of the entries of the directions along which derivatives are tried, (2, k) or one for all.

        Raises:
            UnsupportedModelError: results are no finite real numbers, one row each, or not the same ones each time, or
                depend on other rows, or derivatives are not those of finite differences.
            ModelError: see :meth:`check_mode`.
        """
        given = as_module(function, z)
        module = in_double(given).eval()
        trial = replica(module)
        x = self._consistent(trial, z)
        self.check_mode(given, z)
        width = max(_width(trial, z), z[0].numel(), x[0].numel())
        network = OpaqueNetwork(module, tuple(z.shape[1:]), reason, tuple(x.shape[1:]), width)
        return _differentiated(network, z.flatten(1), lengths)

    def check_mode(self, module: nn.Module, z: Tensor) -> None:
        """Refuse a module in training mode that computes something else there than in evaluation mode.

        Raises:
            ModelError: it is one.
        """
        if not any(m.training for m in module.modules()):
            return
        with suppress(UnsupportedModelError):  # where it cannot be evaluated, nothing was computed in training either
            x = self.evaluate(in_double(module).eval(), z)
            try:
                same = _equal(x, self.evaluate(in_double(module), z))
            except UnsupportedModelError:
                same = False
            if not same:
                raise ModelError(
                    "the module is in training mode, where it computes something else than in evaluation mode; call "
                    "module.eval() first"
                )

    def _consistent(self, module: nn.Module, z: Tensor) -> Tensor:
        """The results, if they are the same each time and each depends on its own input alone."""
        generator = torch.random.get_rng_state()
        x = self.evaluate(module, z)
        if not torch.equal(generator, torch.random.get_rng_state()):
            raise UnsupportedModelError(f"it draws random numbers; a {self.whole} must be deterministic{self.remedy}")
        if not _equal(x, self.evaluate(module, z)):
            raise UnsupportedModelError(
                f"a second evaluation gives another {self.result}; a {self.whole} must be deterministic"
            )
        if not all(_equal(x[i : i + 1], self.evaluate(module, row)) for i, row in enumerate(torch.split(z, 1))):
            raise UnsupportedModelError(
                f"{_a(self.given)} has another {self.result} alone than in a batch; each {self.result} must depend on "
                f"its own {self.given} only"
            )
        if torch.equal(x[0], x[1]):
            raise UnsupportedModelError(
                f"two random {self.given}s have the same {self.result}; it does not depend on the {self.given}"
            )
        return x

    def evaluate(self, module: nn.Module, z: Tensor) -> Tensor:
        """The module's result, if it is one for each row.

        Raises:
            UnsupportedModelError: it is not.
        """
        shape = tuple(z.shape)
        try:
            with torch.no_grad():
                x = module(z.clone())
        # The module's own forward runs here; whatever it raises is the reason.
        except Exception as error:
            raise UnsupportedModelError(
                f"for float64 {self.given}s of shape {shape} it raises {type(error).__name__}: {error}"
            ) from error
        if not isinstance(x, Tensor):
            raise UnsupportedModelError(f"it returns a {type(x).__name__}; a {self.whole} returns one tensor")
        if x.is_meta or x.layout is not torch.strided:
            kind = "meta" if x.is_meta else str(x.layout).removeprefix("torch.")
            raise UnsupportedModelError(f"it returns a {kind} tensor; a {self.whole} returns a dense one, with data")
        if not x.is_floating_point():
            raise UnsupportedModelError(f"it returns {x.dtype} numbers; a {self.whole} returns real ones")
        if x.dim() == 0 or len(x) != len(z) or not x.numel():
            raise UnsupportedModelError(
                f"it maps {self.given}s of shape {shape} to {_a(self.result)} of shape {tuple(x.shape)}; the batch "
                "axis must stay the first"
            )
        if not x.isfinite().all():
            raise UnsupportedModelError(f"it maps {self.drawn} to NaN or infinite {self.result}s")
        return x


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


_CODES = Trial(
    remedy="; pass seed=0 to hold those of torch.randn, rand, normal_ and uniform_ fixed, the same for every code"
)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= _SAME * float(a.abs().max())


# --- derivatives ------------------------------------------------------------------------------------------------------


def _differentiated(network: OpaqueNetwork, z: Tensor, lengths: Tensor | float) -> OpaqueNetwork:
    """The network, differentiated in the mode that works: what the first of these codes show that have no kink near."""
    for scale in _SCALES[:-1]:
        with suppress(UnsupportedModelError):
            return _differentiated_at(network, scale * z, lengths)
    return _differentiated_at(network, _SCALES[-1] * z, lengths)


def _differentiated_at(network: OpaqueNetwork, z: Tensor, lengths: Tensor | float) -> OpaqueNetwork:
    """The same at codes z, by comparing with finite differences.

    For directions d and weights v, forward mode gives J d, reverse mode J^T v, and v . J d = J^T v . d.
    """
    rng = stream("trial directions")
    d = torch.from_numpy(rng.standard_normal((2, 1, z.shape[1]))) * lengths
    v = torch.from_numpy(rng.standard_normal((len(z), network.output_dim)))
    pulled = (_gradient(network, z, v) * d[0]).sum(dim=1)
    steps = ((h, h * d[0]) for h in _STEPS)
    slopes = ((network.forward(z + step) - network.forward(z - step)) / (2 * h) for h, step in steps)
    try:
        along = network.push(z, d)[1][:, 0]
    # What PyTorch raises where it has no forward-mode formula is not documented.
    except Exception:
        size = pulled.abs().max()
        _agree((((s * v).sum(dim=1) - pulled), torch.maximum(size, s.norm() * v.norm())) for s in slopes)
        return replace(network, forward_mode=False)
    size = along.abs().max()
    _agree((s - along, torch.maximum(size, s.abs().max())) for s in slopes)
    _agree([((along * v).sum(dim=1) - pulled, along.norm() * v.norm())])
    return network


def _agree(errors: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Check that one of some errors is small beside the size that goes with it."""
    for error, size in errors:
        if error.abs().max() <= _CLOSE * size:
            if size:
                return
            break
    if not size:
        raise UnsupportedModelError("its derivative is zero at random inputs, though its output changes with them")
    raise UnsupportedModelError(
        f"its derivative is off by {float(error.abs().max() / size):.1g} of that of finite differences; rounding, "
        "detach() or no_grad() in forward hide it"
    )


def _gradient(network: OpaqueNetwork, z: Tensor, v: Tensor) -> Tensor:
    """J^T v, (B, k)."""
    try:
        with torch.enable_grad():
            codes = z.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad((network.forward(codes) * v).sum(), codes)
    except Exception as error:
        raise UnsupportedModelError(f"it cannot be differentiated: {type(error).__name__}: {error}") from error
    return gradient


def longest(outputs: Array) -> Tensor:
    """The two longest of some outputs (B, n), to try functions of outputs on."""
    x = torch.tensor(outputs)
    return x[x.norm(dim=1).argsort(descending=True)[:2]]


def _width(module: nn.Module, z: Tensor) -> int:
    """The most numbers in any tensor that the module computes, for each code.

    Tensors that do not depend on the code, such as weights, drop out of the difference between two batch sizes.
    """

    def sizes(codes: Tensor) -> list[int]:
        found: list[int] = []
        with torch.no_grad(), Operations(lambda *_, result: found.extend(x.numel() for x in tensors(result))):
            module(codes.clone())
        return found

    pairs = zip(sizes(z), sizes(torch.cat([z, z])), strict=False)
    return max(((b - a) // len(z) for a, b in pairs), default=0)
