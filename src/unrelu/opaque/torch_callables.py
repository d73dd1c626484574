"""Wrap the user's module or function as one module from codes to a tensor.

Modules are copied later. Functions are called as they are, in their own precision and on their own device. Further
inputs are held fixed. If the generator returns several outputs, one is selected, or several as named parts.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from unrelu.errors import ModelError, OptionError, UnsupportedModelError
from unrelu.runtime.array_types import Shape

Pick = str | int | Callable[[Any], Any]
# One output, or several outputs by the names of their parts.
Output = Pick | Sequence[str | int] | Mapping[str, Pick] | None

# Precisions to call a function in, and whether to widen its weights. The first that works is used.
_PRECISIONS = (
    (torch.float64, False), (torch.float64, True), (torch.float32, False), (torch.float16, False),
    (torch.bfloat16, False),
)  # fmt: skip
# The largest number of entries of a structure that a message lists.
_LISTED = 12


# --- functions --------------------------------------------------------------------------------------------------------


class FunctionModule(nn.Module):
    """A module that calls a function unchanged; copies of this module share the function.

    Args:
        function: a function of a batch of codes.
        dtype, device: the function's own; codes are converted to them, and its result back. None converts nothing.
        widened: whether to convert the function's weights in single precision to double precision.
    """

    function: Callable[..., Any]

    def __init__(
        self,
        function: Callable[..., Any],
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        widened: bool = False,
    ) -> None:
        super().__init__()
        object.__setattr__(self, "function", function)  # no submodule, as conversions must not reach it
        self.dtype, self.device, self.widened, self.training = dtype, device, widened, False
        name = getattr(function, "title", getattr(function, "__name__", type(function).__name__))
        self.title = f"{name}, in single precision" if dtype == torch.float32 else str(name)

    def forward(self, z: Tensor) -> Any:
        """Call the function."""
        with _Widening() if self.widened else nullcontext():
            x = self.function(z if self.dtype is None else z.to(dtype=self.dtype, device=self.device))
        return x.to(z) if self.dtype and isinstance(x, Tensor) and x.is_floating_point() else x

    def __deepcopy__(self, made: Any) -> FunctionModule:
        return FunctionModule(self.function, self.dtype, self.device, self.widened)


class _Widening(TorchFunctionMode):
    """A mode that converts single to double precision in calls that mix tensors of both."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a PyTorch function, with its arguments widened if they mix single and double precision."""
        kwargs = kwargs or {}
        kinds = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if {torch.float32, torch.float64} <= kinds and not func.__name__.endswith("_"):
            args, kwargs = tree_map(_double, (args, kwargs))
        return func(*args, **kwargs)


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.dtype == torch.float32 else x


def evaluated(module: nn.Module, z: Tensor) -> nn.Module:
    """Return the form of a module that is evaluated: a copy in double precision, in evaluation mode.

    A function is called in the first precision that works. For double precision, its weights may be in single
    precision. The same holds for a module that fails in double precision.

    Args:
        module: a module, or one that calls a function (:class:`FunctionModule`).
        z: codes in double precision, (2, ...); for a function, on its device.
    """
    double = frozen(module, torch.float64, torch.device("cpu")).eval()
    calls_function = any(isinstance(m, FunctionModule) for m in module.modules())
    if not calls_function and isinstance(_failure(double, z), UnsupportedModelError | MemoryError | None):
        return double
    own = double if calls_function else frozen(module).eval()
    for dtype, widened in _PRECISIONS:
        called = FunctionModule(own, dtype, z.device, widened)
        error = _failure(called, z)
        if error is None or isinstance(error, UnsupportedModelError):  # the latter for an output that is not there
            return called
    return FunctionModule(own, torch.float64, z.device, widened=True) if calls_function else double


def as_called(module: nn.Module, z: Tensor) -> FunctionModule | None:
    """Wrap the unchanged module on its own device, in the first precision of codes that works; None if none does."""
    device = next((x.device for x in module.state_dict().values() if isinstance(x, Tensor)), z.device)
    own = replica(module).eval()
    called = (FunctionModule(own, dtype, device) for dtype, widened in _PRECISIONS if not widened)
    return next((each for each in called if _failure(each, z) is None), None)


def _failure(module: nn.Module, z: Tensor) -> Exception | None:
    """Run the module on a batch of codes and return the exception that it raises, or None."""
    try:
        with torch.no_grad():
            module(z.clone())
    except Exception as error:  # the user's forward runs here
        return error.with_traceback(None)  # which would keep the tensors of the call
    return None


# --- copies of modules ------------------------------------------------------------------------------------------------


def replica(module: nn.Module) -> nn.Module:
    """Copy a module; the copy shares only its parameters."""
    return _copied(module, Tensor.clone, {id(parameter): parameter for parameter in module.parameters()})


def frozen(module: nn.Module, dtype: torch.dtype | None = None, device: torch.device | None = None) -> nn.Module:
    """Copy a module with converted tensors, none of which requires a gradient; None keeps the dtype or device."""

    def convert(tensor: Tensor, copy: bool = False) -> Tensor:
        kind = dtype
        if kind is not None and not tensor.is_floating_point():
            kind = kind.to_complex() if tensor.is_complex() else None
        return tensor.to(dtype=kind, device=device, copy=copy)

    # Copying converts tensors, including those in attributes. _apply converts what modules with their own copy left.
    twin = _copied(module, lambda tensor: convert(tensor, copy=True), {})
    twin._apply(convert)  # type: ignore[no-untyped-call] # noqa: SLF001 -- complex too
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def _copied(module: nn.Module, tensor: Callable[[Tensor], Tensor], made: dict[int, Any]) -> nn.Module:
    try:
        with torch.no_grad(), _Copying(tensor):
            return copy.deepcopy(module, made)
    except Exception as error:  # Python does not say what it raises for objects that cannot be copied
        raise ModelError(
            f"the {type(module).__name__} cannot be copied ({type(error).__name__}: {error}); pass a function, such as "
            "lambda z: module(z), which is called as it is"
        ) from error


class _Copying(TorchFunctionMode):
    """A mode that replaces how ``copy.deepcopy`` copies tensors, as it refuses tensors computed from parameters."""

    def __init__(self, tensor: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._tensor = tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a PyTorch function, or copy a tensor in place of ``Tensor.__deepcopy__``."""
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        given, made = args
        if id(given) not in made:
            made[id(given)] = self._tensor(given.detach())
        return made[id(given)]


# --- calls that return one tensor -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorCall:
    """The fixed inputs of a generator, and the selection of its outputs.

    Attributes:
        output: the name (attribute or key) or number of the output, or a function of the returned value; or a
            dictionary from names of parts to these.
        inputs: further inputs by name, held fixed.
        parts: the shapes of the named parts, known after the first call. Copies of a module share them.
    """

    output: Pick | Mapping[str, Pick] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    parts: dict[str, Shape] = field(default_factory=dict)

    def __deepcopy__(self, made: Any) -> GeneratorCall:
        return self

    @classmethod
    def parse(cls, output: Output, inputs: Mapping[str, Any] | None = None) -> GeneratorCall:
        """Check the arguments of :func:`unrelu.from_torch` and make a call from them.

        Raises:
            OptionError: an argument has the wrong type or value.
        """
        several = isinstance(output, Mapping | list | tuple)
        named: Any = output if isinstance(output, Mapping) else {each: each for each in output} if several else {}  # type: ignore[union-attr]
        picks = list(named.values()) if several else [] if output is None else [output]
        known = all((isinstance(each, str | int) or callable(each)) and not isinstance(each, bool) for each in picks)
        if not known or any(map(callable, named)) or (several and not 0 < len(named) == len(output)):  # type: ignore[arg-type]
            raise OptionError(
                f"output={output!r} must be a name, a number or a function of what the module returns, e.g. "
                "output='sample', output=0; or several as named parts, each name once, output=['mean', 'scale'] or "
                "output={'name': function, ...}"
            )
        if inputs is not None and not (isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs)):
            raise OptionError(
                f"inputs must be a dictionary of inputs by name, e.g. inputs={{'c': tensor}}, got {inputs!r:.60}"
            )
        pick: Any = {str(name): each for name, each in named.items()} if several else output
        return cls(pick, {name: _as_tensor(x) for name, x in (inputs or {}).items()})


def _as_tensor(value: Any) -> Any:
    """Copy an array or tensor of numbers to a new tensor; return anything else unchanged."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return torch.tensor(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else value


def as_module(given: Callable[..., Any], call: GeneratorCall | None = None) -> nn.Module:
    """Wrap a generator as a module that takes only the code and returns the selected output; nothing is copied.

    Args:
        given: a module, a bound method of one, or a function.
        call: its fixed inputs and selected outputs; None passes only the code and returns the result unchanged.
    """
    call = call or GeneratorCall()
    given = getattr(given, "_torchdynamo_orig_callable", given)  # the function inside torch.compile's wrapper
    code = _code_name(given, call)
    if isinstance(given, MethodType) and isinstance(given.__self__, nn.Module):
        return CalledModule(given.__self__, call, code, given.__func__)
    body = given if isinstance(given, nn.Module) else FunctionModule(given)
    return CalledModule(body, call, code) if call.output is not None or call.inputs else body


def _code_name(given: Callable[..., Any], call: GeneratorCall) -> str | None:
    """Find the argument name of the code in a module or function; None if it is the first argument or not known."""
    with suppress(TypeError, ValueError):  # builtin functions have no signature
        names = list(inspect.signature(given.forward if isinstance(given, nn.Module) else given).parameters)
        code = next((name for name in names if name not in call.inputs), None)
        return None if code in names[:1] or isinstance(given, torch.jit.ScriptModule) else code
    return None


def _call(body: nn.Module, *args: Any, **named: Any) -> Any:
    if isinstance(body, fx.GraphModule):  # its own __call__ prints exceptions to standard error
        return nn.Module.__call__(body, *args, **named)
    return (body.function if isinstance(body, FunctionModule) else body)(*args, **named)


class CalledModule(nn.Module):
    """A module from codes (B, ...) to one tensor (B, ...), which calls its body as a :class:`GeneratorCall` says.

    A tensor whose first axis is 1 is taken as a batch of one; any other tensor with axes is one entry of a batch. Both
    are repeated for every code. Numbers and other inputs are passed unchanged.

    Args:
        body: the module.
        call: the inputs beside the code, and the selected outputs.
        code: the argument name of the code; None passes it as the first argument.
        run: the function that calls the module, ``run(body, z, **inputs)``.
    """

    def __init__(
        self, body: nn.Module, call: GeneratorCall, code: str | None = None, run: Callable[..., Any] = _call
    ) -> None:
        super().__init__()
        self.body, self.call, self.code, self.run = body, call, code, run
        self.title, self.training = getattr(body, "title", type(body).__name__), False

    def forward(self, z: Tensor) -> Any:
        """Compute the selected output for codes."""
        codes, named = ((z,), {}) if self.code is None else ((), {self.code: z})
        held = {name: _rows(value, z) for name, value in self.call.inputs.items()}
        labels = {name: z.new_full((len(z),), n, dtype=torch.int64) for name, n in held.items() if type(n) is int}
        try:
            result = self.run(self.body, *codes, **named, **held)
        except TypeError:  # an embedding needs a tensor of labels, not an integer
            if not labels:
                raise
            result = self.run(self.body, *codes, **named, **held | labels)
        if not isinstance(self.call.output, Mapping):
            return picked(result, self.call.output)
        parts = {name: picked(result, pick) for name, pick in self.call.output.items()}
        joined = _concatenated(parts)
        self.call.parts.update({name: tuple(part.shape[1:]) for name, part in parts.items()})
        return joined


def _rows(value: Any, z: Tensor) -> Any:
    """Repeat a tensor with axes for each code, in the codes' precision; do not repeat anything else."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(z) if value.is_floating_point() else value.to(z.device)
    if not value.dim():
        return value
    row = value if value.shape[0] == 1 else value[None]
    return row.expand(z.shape[0], *row.shape[1:])


def _concatenated(parts: Mapping[str, Any]) -> Any:
    """Concatenate parts (B, ...) to one flat output, (B, n).

    Raises:
        UnsupportedModelError: a part is not a tensor, or the batch sizes of the parts differ.
    """
    for name, part in parts.items():
        if not isinstance(part, Tensor):
            raise UnsupportedModelError(f"part {name!r} is a {type(part).__name__}; each is one tensor (B, ...)")
    shapes = {name: tuple(part.shape) for name, part in parts.items() if isinstance(part, Tensor)}
    if len({shape[:1] for shape in shapes.values()}) > 1 or () in shapes.values():
        raise UnsupportedModelError(f"parts have shapes {shapes}; the first axis of all must be the batch")
    flat = [part.unsqueeze(1).flatten(1) for part in parts.values()]
    return torch.cat(flat, dim=1) if len(flat) > 1 else flat[0]


def picked(result: Any, output: Pick | None) -> Any:
    """Select one output from the value returned by a module; raise an UnsupportedModelError if it is missing."""
    if output is None:
        return result
    if not isinstance(output, str | int):
        return output(result)
    try:
        return result[output] if isinstance(output, int) or isinstance(result, Mapping) else getattr(result, output)
    except (AttributeError, LookupError, TypeError) as error:
        raise UnsupportedModelError(f"it returns {described(result)}, which has no output={output!r}") from error


def described(result: Any) -> str:
    """Describe a structure of tensors in words, such as ``a DecoderOutput with 'sample' (2, 3, 8, 8)``."""
    name = type(result).__name__
    found = [f"{key!r} {tuple(value.shape)}" for key, value in outputs(result)[:_LISTED]]
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}" + (f" with {', '.join(found)}" if found else "")


def outputs(result: Any) -> list[tuple[str | int, Tensor]]:
    """List the floating-point tensors in a structure, by name or number."""
    if isinstance(result, Mapping):
        pairs: list[tuple[Any, Any]] = list(result.items())
    elif isinstance(result, Sequence) and not hasattr(result, "_fields"):
        pairs = list(enumerate(result))
    else:  # named tuples, data classes, objects
        names = getattr(result, "_fields", None) or list(getattr(result, "__dict__", {}))
        pairs = [(name, getattr(result, name, None)) for name in names]
    return [(key, value) for key, value in pairs if isinstance(value, Tensor) and value.is_floating_point()]
