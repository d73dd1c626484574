"""Conversion of what a user passes as a generator to one module from codes to a tensor.

This covers functions, further inputs held fixed, the choice of one output of several, and random numbers held fixed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from unrelu.errors import ModelError, OptionError, UnsupportedModelError
from unrelu.models.affine import Shape
from unrelu.models.module_copies import copied_whole, frozen, in_double, used
from unrelu.models.opaque_network import plain_attention
from unrelu.runtime.streams import stream

Pick = str | int | Callable[[Any], Any]
# One output, or several by the names of the parts that they become.
Output = Pick | Sequence[str | int] | Mapping[str, Pick] | None

# Functions that draw random numbers: the function that makes a tensor of the same shape and type, and the distribution.
_DRAWS: dict[Any, tuple[Callable[..., Tensor], str]] = {
    torch.randn: (torch.empty, "standard_normal"),
    torch.rand: (torch.empty, "random"),
    torch.randn_like: (torch.empty_like, "standard_normal"),
    torch.rand_like: (torch.empty_like, "random"),
}
# The most entries of a structure that a message lists.
_LISTED = 12


# --- functions --------------------------------------------------------------------------------------------------------


def as_module(function: Any, x: Tensor | None) -> nn.Module:
    """Return a function as a module; a module is returned unchanged if it can compute in double precision.

    Modules and tensors that the function uses become part of the module, so that it can be copied and converted. They
    are found in bound methods, partials, closures, defaults and named globals, also inside lists, dictionaries and
    callable objects. If the converted function still does not compute in double precision, it is run in single
    precision; if a copy cannot be run so, the original is.

    Args:
        function: a function of tensors.
        x: an input for a trial. None assumes that the function computes in double precision.
    """
    if isinstance(function, nn.Module) and not copied_whole(function):
        return function
    function = getattr(function, "_torchdynamo_orig_callable", function)  # what torch.compile wraps
    called = getattr(function, "__call__", None)  # noqa: B004 -- the method itself is needed
    if isinstance(called, MethodType) and not isinstance(function, nn.Module):  # an object of a Python class
        function = called
    module = function if isinstance(function, nn.Module) else FunctionModule(function)
    if x is None or _computes(in_double(module), x, torch.float64):
        return module
    for single in (frozen(module, torch.float32, torch.device("cpu")), function):
        if _computes(single, x, torch.float32):
            return FunctionModule(_InSingle(single, getattr(function, "__name__", type(function).__name__)))
    return module


def _computes(function: Callable[..., Any], x: Tensor, dtype: torch.dtype) -> bool:
    with suppress(Exception), torch.no_grad():  # the user's code: any exception means that it does not compute
        y = function(x.to(dtype, copy=True))
        return not isinstance(y, Tensor) or y.dtype == dtype
    return False


class _InSingle:
    """A function that computes in single precision. It has no ``__dict__``, so that copies leave its function as is."""

    __slots__ = ("__name__", "function")

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.__name__ = f"{name}, in single precision"

    def __call__(self, x: Tensor) -> Any:
        y = self.function(x.to(torch.float32))
        return y.to(x.dtype) if isinstance(y, Tensor) and y.dtype == torch.float32 else y


class FunctionModule(nn.Module):
    """A function with the modules that it uses."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.title = str(getattr(function, "__name__", type(function).__name__))
        self.used = _modules_of(function)
        self.training = False

    def forward(self, x: Tensor) -> Any:
        """Call the function. It takes x only, because a ``forward`` with ``**kwargs`` could not be traced."""
        return self.function(x)


def _modules_of(value: Any) -> nn.ModuleList:
    """The modules that a function or a container of functions uses; they keep their own mode."""
    modules = nn.ModuleList(dict.fromkeys(m for m in used(value) if isinstance(m, nn.Module)))
    modules.training = False
    return modules


# --- calls that return one tensor -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorCall:
    """How a generator is called, and which of its outputs is used.

    Attributes:
        output: the name (attribute or key) or number of the output, or a function of the returned value; or a
            dictionary of these by the name of the part of the output that each becomes.
        inputs: further inputs by name, held fixed.
        seed: the seed of random numbers that are drawn in the call, held fixed; None refuses random numbers.
    """

    output: Pick | Mapping[str, Pick] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @classmethod
    def parse(cls, output: Output, inputs: Mapping[str, Any] | None, seed: int | None) -> GeneratorCall:
        """The arguments of :func:`unrelu.from_torch`, checked.

        Raises:
            OptionError: an argument has the wrong type or value.
        """
        pick: Any = dict(_named_picks(output)) if isinstance(output, Mapping | list | tuple) else output
        for each in pick.values() if isinstance(pick, dict) else [pick]:
            if each is not None and (isinstance(each, bool) or not (isinstance(each, str | int) or callable(each))):
                raise OptionError(
                    f"output={output!r} must be a name, a number or a function of what the module returns, e.g. "
                    "output='sample', output=0; or several as named parts, output=['mean', 'scale']"
                )
        if inputs is not None and not (isinstance(inputs, Mapping) and all(isinstance(n, str) for n in inputs)):
            raise OptionError(
                f"inputs must be a dictionary of inputs by name, e.g. inputs={{'c': tensor}}, got {inputs!r:.60}"
            )
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63):
            raise OptionError(f"seed={seed!r} must be an integer of at least 0, below 2**63, or None")
        return cls(pick, {name: _as_tensor(x) for name, x in (inputs or {}).items()}, seed)

    def with_labels(self) -> GeneratorCall:
        """The same call with integers as tensors, one label for each code."""
        return replace(self, inputs={**self.inputs, **{name: torch.tensor([x]) for name, x in self.labels.items()}})

    @property
    def labels(self) -> dict[str, int]:
        """The inputs that are integers."""
        return {name: x for name, x in self.inputs.items() if isinstance(x, int) and not isinstance(x, bool)}

    @property
    def unread(self) -> str | None:
        """Why a module called this way is not a chain of layers; None if that depends on the module."""
        if self.seed is not None:
            return f"its random numbers are held fixed, those of seed={self.seed}"
        small = {n: x.item() for n, x in self.inputs.items() if isinstance(x, Tensor) and x.numel() == 1} | self.labels
        held = ", ".join(f"{name}={small[name]:.7g}" if name in small else name for name in self.inputs)
        return f"it takes {held} beside the code, held fixed" if self.inputs else None

    @property
    def plain(self) -> bool:
        """Whether the call takes only the code and uses the returned value unchanged."""
        return self.output is None and not self.inputs and self.seed is None


def _as_tensor(value: Any) -> Any:
    """An array of numbers as a tensor; anything else unchanged."""
    return torch.tensor(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else value


class CalledModule(nn.Module):
    """A module called as a :class:`GeneratorCall` says: from codes (B, ...) to one tensor (B, ...).

    Further tensors are broadcast over the batch. A tensor whose first axis is 1 is taken as a batch of one; any other
    tensor is one entry of a batch. Inputs that are not tensors are passed unchanged.

    Args:
        body: the module.
        call: how it is called.
        shared: whether to pass tensors unchanged, too.
        code: the argument name of the code; None passes it as the first argument.
    """

    def __init__(self, body: nn.Module, call: GeneratorCall, shared: bool = False, code: str | None = None) -> None:
        super().__init__()
        self.body, self.output, self.shared, self.code, self.seed = body, call.output, shared, code, call.seed
        self.title = getattr(body, "title", type(body).__name__)
        inputs = call.inputs.items()
        self.used = _modules_of(self.output)
        self.held = {name: x.detach().clone() if isinstance(x, Tensor) else x for name, x in inputs}
        self.training = False

    def forward(self, z: Tensor) -> Any:
        """The chosen output."""
        if self.seed is None:
            return self._once(z)
        # Each code is evaluated alone, so that the draws do not depend on the batch.
        alone = torch.func.vmap(lambda row: self._once(row[None])[0], randomness="same")
        with HeldDraws(self.seed), plain_attention():
            return alone(z)

    def _once(self, z: Tensor, chosen: bool = True) -> Any:
        held = {name: self._rows(value, z) for name, value in self.held.items()}
        args, named = ((z,), {}) if self.code is None else ((), {self.code: z})
        run: Any = self.body.function if isinstance(self.body, FunctionModule) else self.body
        try:
            result = run(*args, **named, **held)
        except IndexError as error:
            sizes = sorted({m.num_embeddings for m in self.body.modules() if isinstance(m, nn.Embedding)})
            allowed = " or ".join(f"0 to {size - 1}" for size in sizes)
            raise IndexError(f"{error}; the module's embeddings take {allowed}" if sizes else error) from error
        return picked(result, self.output) if chosen else result

    def parts(self, z: Tensor) -> dict[str, Shape]:
        """The shapes of the parts of an output, if it has any; z is a batch of codes."""
        if not isinstance(self.output, Mapping):
            return {}
        with torch.no_grad(), nullcontext() if self.seed is None else HeldDraws(self.seed):
            result = self._once(z, chosen=False)
            return {name: tuple(picked(result, pick).shape[1:]) for name, pick in self.output.items()}

    def _rows(self, value: Any, z: Tensor) -> Any:
        if not isinstance(value, Tensor) or self.shared:
            return value
        row = value if value.dim() and value.shape[0] == 1 else value[None]
        return row.expand(z.shape[0], *row.shape[1:])


def _named_picks(output: Sequence[Any] | Mapping[Any, Any]) -> list[tuple[str, Any]]:
    pairs = list(output.items()) if isinstance(output, Mapping) else [(pick, pick) for pick in output]
    named = [(str(name), pick) for name, pick in pairs]
    if not named or len(dict(named)) < len(named) or any(pick is None or callable(name) for name, pick in pairs):
        raise OptionError(
            f"output={output!r} must have a name for each part, and each once: names and numbers in a list, or "
            "output={'name': function, ...}"
        )
    return named


def concatenated(parts: Mapping[str, Any]) -> Any:
    """Parts (B, ...) as one flat output, (B, n).

    Raises:
        UnsupportedModelError: a part is not a tensor, or they have different numbers of entries in a batch.
    """
    for name, part in parts.items():
        if not isinstance(part, Tensor | fx.Proxy):
            raise UnsupportedModelError(f"part {name!r} is a {type(part).__name__}; each is one tensor (B, ...)")
    shapes = {name: tuple(part.shape) for name, part in parts.items() if isinstance(part, Tensor)}
    if len({shape[:1] for shape in shapes.values()}) > 1 or () in shapes.values():
        raise UnsupportedModelError(f"parts have shapes {shapes}; the first axis of all must be the batch")
    flat = [part.unsqueeze(1).flatten(1) for part in parts.values()]
    return torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]


def picked(result: Any, output: Pick | Mapping[str, Pick] | None) -> Any:
    """One output of the value that a module returned, or several, one after the other.

    Raises:
        UnsupportedModelError: there is no output of that name or number.
    """
    if output is None:
        return result
    if isinstance(output, Mapping):
        return concatenated({name: picked(result, pick) for name, pick in output.items()})
    if not isinstance(output, str | int):
        return output(result)
    try:
        return result[output] if isinstance(output, int) or isinstance(result, Mapping) else getattr(result, output)
    except (AttributeError, LookupError, TypeError) as error:
        raise UnsupportedModelError(f"it returns {described(result)}, which has no output={output!r}") from error


def described(result: Any) -> str:
    """A structure of tensors in words, such as ``a DecoderOutput with 'sample' (2, 3, 8, 8)``."""
    name = type(result).__name__
    found = [f"{key!r} {tuple(value.shape)}" for key, value in outputs(result)[:_LISTED]]
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}" + (f" with {', '.join(found)}" if found else "")


def outputs(result: Any) -> list[tuple[str | int, Tensor]]:
    """The floating-point tensors in a structure, by name or number."""
    if isinstance(result, Mapping):
        pairs: list[tuple[Any, Any]] = list(result.items())
    elif isinstance(result, Sequence) and not hasattr(result, "_fields"):
        pairs = list(enumerate(result))
    else:  # named tuples, data classes, objects
        names = getattr(result, "_fields", None) or list(getattr(result, "__dict__", {}))
        pairs = [(name, getattr(result, name, None)) for name in names]
    return [(key, value) for key, value in pairs if isinstance(value, Tensor) and value.is_floating_point()]


class HeldDraws(TorchFunctionMode):
    """Random numbers that are the same in each forward pass: every drawing call has a stream of its own.

    This replaces ``torch.randn``, ``rand``, their ``_like`` forms, ``Tensor.normal_`` and ``uniform_``, with which
    generators draw noise inputs. Other functions draw as usual.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.calls = seed, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by PyTorch in place of each of its functions."""
        kwargs = dict(kwargs or {})
        if func in (Tensor.normal_, Tensor.uniform_):
            low, high = (*tuple(args[1:3]), 0.0, 1.0)[:2] if len(args) != 2 else (args[1], 1.0)
            low, high = kwargs.get("mean", kwargs.get("from", low)), kwargs.get("std", kwargs.get("to", high))
            drawn = self._drawn("standard_normal" if func is Tensor.normal_ else "random", args[0])
            return args[0].copy_(low + (high if func is Tensor.normal_ else high - low) * drawn)
        if func not in _DRAWS:
            return func(*args, **kwargs)
        like, distribution = _DRAWS[func]
        kwargs.pop("generator", None)
        return self._drawn(distribution, like(*args, **kwargs))

    def _drawn(self, distribution: str, like: Tensor) -> Tensor:
        if not isinstance(like, Tensor):  # during tracing
            raise UnsupportedModelError("draws random numbers of a size that depends on the code")
        values = getattr(stream("noise inputs", self.seed, self.calls), distribution)(tuple(like.shape))
        self.calls += 1
        return torch.as_tensor(values).to(like.device, like.dtype)


# --- missing inputs ---------------------------------------------------------------------------------------------------


def code_name(given: Callable[..., Any], call: GeneratorCall) -> str | None:
    """The argument name of the code in a module or function; None if the code is its first input, or not known.

    Raises:
        UnsupportedModelError: a required input is missing.
        ModelError: an input was given that the module does not take.
    """
    if isinstance(given, torch.jit.ScriptModule):
        return None
    try:
        signature = inspect.signature(given.forward if isinstance(given, nn.Module) else given)
    except (TypeError, ValueError):  # builtin functions have no signature
        return None
    kinds, parameters = inspect.Parameter, list(signature.parameters.values())
    names = [p.name for p in parameters]
    single = [p for p in parameters if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)]
    unknown = [name for name in call.inputs if name not in names]
    if unknown and len(single) == len(parameters):
        raise ModelError(f"inputs= has {unknown[0]!r}, but the module takes {', '.join(names)}")
    positional = [p.name for p in single if p.kind is not kinds.KEYWORD_ONLY]
    code = [name for name in positional if name not in call.inputs][:1]
    missing = [p.name for p in single if p.default is kinds.empty and p.name not in (*call.inputs, *code)]
    if missing:
        inputs = [f"{name!r}: ..." for name in call.inputs] + [f"{name!r}: tensor" for name in missing]
        raise UnsupportedModelError(
            f"the module takes {' and '.join(code + missing)}; a generator takes the code alone: pass the others, held "
            f"fixed, as inputs={{{', '.join(inputs)}}}"
        )
    return code[0] if code and code != positional[:1] else None
