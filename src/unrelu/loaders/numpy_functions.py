r"""Read a function of NumPy as a generator: a simulator, a model of lmfit, compiled code.

Its derivatives are finite differences. For the two-point scheme with the step h of a coordinate,

.. math::

    \frac{\partial G}{\partial z_j} \approx \frac{G(z + h e_j) - G(z)}{h}, \qquad h = s \max(|z_j|, 0.01 (u_j - l_j)),

with the relative step s and the bounds l and u; without two finite bounds, 1 takes the place of the last term. The
error is about h for the truncation and the rounding error of G divided by h, so the best s is the
square root of the rounding error. With three points, it is the cube root, and the error is much smaller. Steps stay
within the bounds.

Source: Press et al., Numerical Recipes (2007), section 5.7; ``scipy.optimize.approx_fprime`` and ``least_squares``
have the same schemes and relative steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from unrelu.errors import ModelError, OptionError, UnsupportedModelError
from unrelu.loaders._torch_graph import code_arguments
from unrelu.models.generator import NamedGenerator, to_numpy
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.opaque.torch_callables import FunctionModule
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.argument_checks import known_arguments, real_number
from unrelu.runtime.array_types import Array, Shape
from unrelu.runtime.streams import stream
from unrelu.runtime.words import shown

# The schemes by name: the points beside z, and the default relative step as a power of the rounding error.
_SCHEMES = {"2-point": (1, 1 / 2), "3-point": (2, 1 / 3)}
# The number of corners of the bounds at which a function is tried.
_CORNERS = 8
# The multiplications that a processor makes in a second, and the longest evaluation that is counted.
_MULTIPLICATIONS, _LONGEST = 4 * 10**9, 1.0
# The least scale of a coordinate, as a share of the distance of its bounds.
_LEAST = 0.01
# The number of codes whose outputs are kept.
_KEPT = 64
# Evaluations of one code may differ by this share of the largest output, as between those alone and in a batch.
_SAME = 1e-12


@known_arguments
def from_function(
    function: Callable[..., Any],
    bounds: Mapping[str, Any],
    *,
    batch: bool = False,
    executor: Executor | None = None,
    jac: str = "2-point",
    diff_step: float | None = None,
    seconds: float = 0.001,
) -> NamedGenerator:
    """Make a generator of a function of named parameters that returns a NumPy array.

    All methods that need no layers invert it. A step of a search takes k + 1 evaluations ("2-point") or 2 k + 1.

    Args:
        function: takes the parameters by name, as numbers, ``function(amp=..., omega=...)``, and returns an array of
            any shape, always the same numbers for the same parameters. Data such as the points x of a curve are bound
            by ``functools.partial``.
        bounds: the parameters by name, in their own units, with their bounds: ``{"amp": (0, 10), ...}``. Infinite ends
            are allowed.
        batch: whether the function takes arrays (B,) of each parameter, and returns (B, ...).
        executor: evaluates codes in parallel, such as ``concurrent.futures.ProcessPoolExecutor()``; the function must
            then be one that can be pickled. None evaluates one after another.
        jac: the scheme of finite differences, "2-point" or "3-point".
        diff_step: the relative step s; by default eps^(1/2) or eps^(1/3), as in SciPy. For a function with a relative
            error e, state e^(1/2) or e^(1/3).
        seconds: about what one evaluation takes. It decides how many evaluations a search spends on samples and
            restarts: some 2,000 for a function of a millisecond, some 700 for slow ones. It is not measured, so that
            answers do not depend on the machine.

    Returns:
        A generator in double precision on the CPU, with these bounds as its :attr:`~unrelu.Generator.domain`.

    Raises:
        InputError: ``bounds`` are not pairs of increasing numbers by name.
        OptionError: ``jac``, ``diff_step``, ``seconds`` or ``executor`` is something else.
        ModelError: ``function`` is no function.
        UnsupportedModelError: the function raises an error, returns NaN at a corner of the bounds, no finite numbers
            within them, another shape for another code, or other numbers in a second call.

    >>> import numpy as np, unrelu
    >>> x = np.linspace(0, 15, 301)
    >>> def wave(amp, omega, shift, decay):
    ...     return amp * np.sin(omega * x + shift) * np.exp(-decay * x**2)
    >>> net = unrelu.from_function(wave, {"amp": (0, 10), "omega": (0.1, 5), "shift": (-1.5, 1.5), "decay": (0, 0.1)})
    >>> r = unrelu.invert(net, wave(5.0, 2.0, -0.1, 0.025))
    >>> r.status.name, {name: round(value, 5) for name, value in r.parameters.items()}
    ('EXACT_FIT', {'amp': 5.0, 'omega': 2.0, 'shift': -0.1, 'decay': 0.025})
    """
    if not callable(function) or isinstance(function, type):
        raise ModelError(f"from_function takes a function of named parameters, got {shown(function)}")
    _, names, domain = code_arguments(None, bounds if bounds is not None else {})
    assert names is not None and domain is not None  # noqa: PT018 -- bounds are stated
    if jac not in _SCHEMES:
        raise OptionError(f"jac={shown(jac)} is unknown; use {' or '.join(map(repr, _SCHEMES))}")
    points, power = _SCHEMES[jac]
    step = np.finfo(float).eps ** power if diff_step is None else real_number("diff_step", diff_step, "a relative step")
    if not 0 < step < 1:
        raise OptionError(f"diff_step={diff_step!r} must be above 0 and below 1")
    if not 0 <= real_number("seconds", seconds, "what one evaluation takes") < np.inf:
        raise OptionError(f"seconds={seconds!r} must be at least 0, and finite")
    if executor is not None and not callable(getattr(executor, "map", None)):
        raise OptionError(f"executor={shown(executor)} has no map(); pass a concurrent.futures.Executor")
    own = SimulatedFunction(function, tuple(names), domain, batch, points, step, executor)
    shape = own.tried()
    module, shapes = FunctionModule(own, torch.float64, torch.device("cpu")), (len(names),)
    reason = "NumPy computes it, and its derivatives are finite differences"
    held: dict[str, Any] = {"domain": domain, "function": own, "seconds": seconds}
    return FunctionNetwork(module, shapes, reason, shape, int(np.prod(shape)), **held).named(names)


@dataclass(frozen=True, eq=False)
class SimulatedFunction:
    """A function of named parameters as a PyTorch function of batches, with derivatives by finite differences.

    Attributes:
        function: the user's function.
        names: of its parameters, in order.
        domain: their bounds.
        batch: whether it takes several codes at once.
        points: the points beside z in each coordinate, 1 or 2.
        step: the relative step.
        executor: evaluates codes in parallel; pickles do without it.
        kept: outputs of the last codes.
    """

    function: Callable[..., Any]
    names: tuple[str, ...]
    domain: Bounds
    batch: bool
    points: int
    step: float
    executor: Executor | None
    kept: dict[bytes, Array | None] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "executor": None, "kept": {}}

    @property
    def title(self) -> str:
        """The name of the function."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    def __call__(self, z: Tensor) -> Tensor:
        """Compute outputs, (B, *output_shape), at codes (B, k); differentiable once."""
        values: Tensor = _SimulatedValues.apply(self, z)  # type: ignore[no-untyped-call]
        return values

    def values(self, z: Array) -> Array:
        """Compute outputs, (B, ...), at codes (B, k).

        Raises:
            UnsupportedModelError: the function raises an error, or returns other than numbers of one shape.
        """
        if not len(z):
            return np.empty((0, 1))
        try:
            if self.batch:
                found = np.asarray(self.function(**dict(zip(self.names, z.T.copy(), strict=True))), dtype=np.float64)
            else:
                run = map if self.executor is None or len(z) == 1 else self.executor.map
                found = np.array(list(run(_NamedCall(self.function, self.names), z)), dtype=np.float64)
        except Exception as error:  # the user's function runs here
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UnsupportedModelError(f"{self.title} raises {said}, at {self._code(z[0])}") from error
        if found.ndim == 0 or len(found) != len(z):
            raise UnsupportedModelError(
                f"{self.title} returns shape {found.shape} for {len(z)} codes; with batch=True, it takes arrays (B,) "
                "of each parameter and returns (B, ...); without, it takes one code"
            )
        return found[:, None] if found.ndim == 1 else found

    def known(self, z: Array) -> Array:
        """Compute outputs as :meth:`values` does; those of the last codes are kept, as their Jacobians often follow."""
        keys = [row.tobytes() for row in z]
        rows = {key: self.kept.get(key) for key in keys}  # another thread may clear the table meanwhile
        if missing := {key: row for key, row in zip(keys, z, strict=True) if rows[key] is None}:
            rows |= zip(missing, self.values(np.stack([*missing.values()])), strict=True)
        if len(self.kept) > _KEPT:
            self.kept.clear()
        if len(rows) <= _KEPT:
            self.kept.update(rows)
        return np.array([rows[key] for key in keys]) if keys else self.values(z)

    def linearized(self, z: Array) -> tuple[Array, Array]:
        """Compute outputs, (B, n), and the transposed Jacobian, (B, k, n), at codes (B, k)."""
        (size, k), one = z.shape, self._steps(z)
        steps = np.stack([one, self._second(z, one)][: self.points])
        beside = z[None, :, None, :] + steps[..., None] * np.eye(k)  # (points, B, k, k)
        x = self.known(z).reshape(size, -1)
        first, others = x[:, None], self.values(beside.reshape(-1, k)).reshape(self.points, size, k, -1)
        h = np.einsum("pbjj->pbj", beside - z[None, :, None, :])[..., None]  # as rounded
        with np.errstate(invalid="ignore"):  # outputs may be infinite
            if self.points == 1:
                return x, (others[0] - first) / h[0]
            rise = h[1] ** 2 * (others[0] - first) - h[0] ** 2 * (others[1] - first)
            return x, rise / (h[0] * h[1] * (h[1] - h[0]))

    def _steps(self, z: Array) -> Array:
        """Return a step for each coordinate, (B, k), towards the bound that is farther away."""
        low, high = self.domain.ends
        with np.errstate(invalid="ignore"):
            scale = np.maximum(np.abs(z), np.where(np.isfinite(high - low), _LEAST * (high - low), 1.0))
        return np.where(high - z >= z - low, 1.0, -1.0) * self.step * scale

    def _second(self, z: Array, one: Array) -> Array:
        """Return the steps to the third points: opposite to the first where the bounds allow it, else twice as far."""
        low, high = self.domain.ends
        return np.where((z - one >= low) & (z - one <= high), -one, 2 * one)

    def _code(self, z: Array) -> str:
        return ", ".join(f"{name}={value:.6g}" for name, value in zip(self.names, z.tolist(), strict=True))

    def tried(self) -> Shape:
        """Try the function within the bounds and at corners; return the shape of an output.

        Raises:
            UnsupportedModelError: see :func:`from_function`.
        """
        rng, k, (low, high) = stream("tried function"), len(self.names), self.domain.ends
        inner = self.domain.draw(rng, (2,))
        lower = np.concatenate([np.ones((1, k)), np.zeros((1, k)), rng.random((_CORNERS - 2, k)) < 0.5])
        corners = np.where(lower, low, high)
        corners = np.where(np.isfinite(corners), corners, inner[0])
        x = self.values(np.concatenate([inner, corners]))
        for i, (code, row) in enumerate(zip([*inner, *corners], x.reshape(len(x), -1), strict=True)):
            # Outputs may be infinite at corners: they count as bad fits.
            if (bad := row[~np.isfinite(row) if i < len(inner) else np.isnan(row)]).size:
                raise UnsupportedModelError(
                    f"{self.title} returns {bad[0]} at {self._code(code)}; state bounds= within which it is finite"
                )
        size = float(np.abs(x[:2]).max())
        again, alone = self.values(inner), np.concatenate([self.values(row[None]) for row in inner])
        for what, other in (("in a second call", again), ("alone and in a batch", alone)):
            if other.shape != x[:2].shape:
                raise UnsupportedModelError(
                    f"{self.title} returns shape {other.shape[1:]} {what}, {x.shape[1:]} before"
                )
            if (off := float(np.abs(other - x[:2]).max())) > _SAME * size:
                raise UnsupportedModelError(
                    f"{self.title} returns other numbers {what}, by up to {off:.2g}; it must be a function of its "
                    "parameters alone: seed what it draws"
                )
        if (x == x[0]).all():
            raise UnsupportedModelError(f"{self.title} returns the same for all parameters within the bounds")
        return tuple(x.shape[1:])


@dataclass(frozen=True)
class _NamedCall:
    """A call of the function by the names of its parameters, which can be sent to another process."""

    function: Callable[..., Any]
    names: tuple[str, ...]

    def __call__(self, z: Array) -> Any:
        return self.function(**dict(zip(self.names, z.tolist(), strict=True)))


class _SimulatedValues(torch.autograd.Function):
    """The outputs of a function for codes (B, k); it has first derivatives only."""

    @staticmethod
    def forward(ctx: Any, function: SimulatedFunction, z: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(z)
        return torch.from_numpy(function.known(to_numpy(z))).to(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v: Tensor) -> Any:
        (z,) = ctx.saved_tensors
        _, jacobian = ctx.function.linearized(to_numpy(z))
        return None, (torch.from_numpy(jacobian).to(v) @ v.reshape(len(v), -1, 1))[..., 0]


@dataclass(frozen=True, eq=False, repr=False)
class FunctionNetwork(OpaqueNetwork):
    """A generator that a function of NumPy computes. Its Jacobian is made of finite differences.

    Attributes:
        function: the function that :attr:`module` calls.
        seconds: about what one evaluation takes.
    """

    function: SimulatedFunction = field(kw_only=True, repr=False)
    seconds: float = field(kw_only=True)

    @property
    def outside_work(self) -> int:
        """See :attr:`Generator.outside_work`."""
        return int(min(self.seconds, _LONGEST) * _MULTIPLICATIONS)

    def along(self, z: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`OpaqueNetwork.along`."""
        x, jacobian = (torch.from_numpy(each) for each in self.function.linearized(to_numpy(z.double())))
        return x.to(z), directions @ jacobian.to(z)
