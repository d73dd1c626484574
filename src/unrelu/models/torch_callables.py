"""What a user passes as a generator as one module from codes to a tensor.

Modules are copied later; functions are called as they are, in their own precision and on their own device. Further
inputs are held fixed, and one output of several is chosen, or several as named parts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from unrelu.errors import ModelError, OptionError, UnsupportedModelError
from unrelu.models._module_copies import frozen
from unrelu.models.affine import Shape

Pick = str | int | Callable[[Any], Any]
# One output, or several by the names of the parts that they become.
Output = Pick | Sequence[str | int] | Mapping[str, Pick] | None

# Precisions in which a function is called, and whether its weights are widened: the first that it takes.
_PRECISIONS = (
    (torch.float64, False), (torch.float64, True), (torch.float32, False), (torch.float16, False),
    (torch.bfloat16, False),
)  # fmt: skip
# The most entries of a structure that a message lists.
_LISTED = 12


# --- functions --------------------------------------------------------------------------------------------------------


class FunctionModule(nn.Module):
    """A function as a module: it is called as it is, and copies of this module have the same function.

    Args:
        function: a function of a batch of codes.
        dtype, device: what it takes; codes are converted to them, and its result back. None converts nothing.
        widened: whether it has weights in single precision that are taken in double precision.
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
        x = self._called(self.function, z)
        return x.to(z) if self.dtype and isinstance(x, Tensor) and x.is_floating_point() else x

    def parts(self, z: Tensor) -> dict[str, Shape]:
        """The shapes of the named parts of the function's output; z is a batch of codes."""
        parts: dict[str, Shape] = self._called(cast(CalledModule, self.function).parts, z)
        return parts

    def _called(self, function: Callable[..., Any], z: Tensor) -> Any:
        with _Widening() if self.widened else nullcontext():
            return function(z if self.dtype is None else z.to(dtype=self.dtype, device=self.device))

    def __deepcopy__(self, made: Any) -> FunctionModule:
        return FunctionModule(self.function, self.dtype, self.device, self.widened)


class _Widening(TorchFunctionMode):
    """Takes tensors in single precision in double precision, where a call has some in double precision as well."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by PyTorch in place of each of its functions."""
        kwargs = kwargs or {}
        kinds = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if {torch.float32, torch.float64} <= kinds and not func.__name__.endswith("_"):
            args, kwargs = tree_map(_double, (args, kwargs))
        return func(*args, **kwargs)


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.dtype == torch.float32 else x


def running(module: nn.Module) -> nn.Module:
    """A copy of a module in double precision, in evaluation mode; what calls functions, with the same functions."""
    return frozen(module, torch.float64, torch.device("cpu")).eval()


def evaluated(module: nn.Module, z: Tensor, own_mode: bool = False) -> nn.Module:
    """The module as a generator evaluates it: a copy in double precision, in evaluation mode.

    A function is called in the first precision that it takes, in double precision also with weights in single
    precision. So is a module that refuses double precision.

    Args:
        module: a module, or one that calls a function (:class:`FunctionModule`).
        z: codes in double precision, (2, ...), on the device of a function.
        own_mode: whether the copy is left in training mode, if the module is.
    """
    double = frozen(module, torch.float64, torch.device("cpu")) if own_mode else running(module)
    calls_function = any(isinstance(m, FunctionModule) for m in module.modules())
    if not calls_function and isinstance(failure(double, z), UnsupportedModelError | MemoryError | None):
        return double
    own = double if calls_function else frozen(module)
    own = own if own_mode else own.eval()
    for dtype, widened in _PRECISIONS:
        called = FunctionModule(own, dtype, z.device, widened)
        error = failure(called, z)
        if error is None or isinstance(error, UnsupportedModelError):  # the latter for an output that is not there
            return called
    return FunctionModule(own, torch.float64, z.device, widened=True) if calls_function else double


def accepts(copy: nn.Module, shape: Shape) -> bool:
    """Whether a copy of :func:`running` takes codes of this shape, in one of the precisions."""
    z = torch.zeros(7, *shape, dtype=torch.float64)  # layers take (2, k) for one code of two channels
    return any(failure(FunctionModule(copy, dtype, None, widened), z) is None for dtype, widened in _PRECISIONS)


def failure(module: nn.Module, z: Tensor) -> Exception | None:
    """What the module raises for a batch of codes; None if it maps each of them to something."""
    try:
        with torch.no_grad():
            x = module(z.clone())
    except Exception as error:  # the user's forward runs here
        return error.with_traceback(None)  # which would keep the tensors of the call
    if isinstance(x, Tensor) and x.dim() and len(x) != len(z):
        return ValueError(f"it maps {len(z)} codes to {len(x)} outputs")
    return None


# --- calls that return one tensor -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorCall:
    """How a generator is called, and which of its outputs is used.

    Attributes:
        output: the name (attribute or key) or number of the output, or a function of the returned value; or a
            dictionary of these by the name of the part of the output that each becomes.
        inputs: further inputs by name, held fixed.
    """

    output: Pick | Mapping[str, Pick] | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, output: Output, inputs: Mapping[str, Any] | None = None) -> GeneratorCall:
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
        return cls(pick, {name: _as_tensor(x) for name, x in (inputs or {}).items()})


def _as_tensor(value: Any) -> Any:
    """An array or tensor of numbers as a tensor of its own; anything else unchanged."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return torch.tensor(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else value


def _named_picks(output: Sequence[Any] | Mapping[Any, Any]) -> list[tuple[str, Any]]:
    pairs = list(output.items()) if isinstance(output, Mapping) else [(pick, pick) for pick in output]
    named = [(str(name), pick) for name, pick in pairs]
    if not named or len(dict(named)) < len(named) or any(pick is None or callable(name) for name, pick in pairs):
        raise OptionError(
            f"output={output!r} must have a name for each part, and each once: names and numbers in a list, or "
            "output={'name': function, ...}"
        )
    return named


def as_module(given: Callable[..., Any], call: GeneratorCall | None = None) -> nn.Module:
    """What was passed as a module of the code alone that returns what is asked for; nothing is copied.

    Args:
        given: a module, a bound method of one, or a function.
        call: how it is called; None passes the code and takes what is returned.

    Raises:
        UnsupportedModelError: a required input is missing.
        ModelError: an input was given that the module does not take.
    """
    call = call or GeneratorCall()
    given = getattr(given, "_torchdynamo_orig_callable", given)  # what torch.compile wraps
    code = code_name(given, call)
    if isinstance(given, MethodType) and isinstance(given.__self__, nn.Module):
        return CalledModule(given.__self__, call, code, given.__func__)
    body = given if isinstance(given, nn.Module) else FunctionModule(given)
    if call.output is None and not call.inputs:
        return body
    return CalledModule(body, call, code, _call)


def _call(body: nn.Module, *args: Any, **named: Any) -> Any:
    if isinstance(body, fx.GraphModule):  # its own __call__ prints what it raises to standard error
        return nn.Module.__call__(body, *args, **named)
    return (body.function if isinstance(body, FunctionModule) else body)(*args, **named)


class CalledModule(nn.Module):
    """A module called as a :class:`GeneratorCall` says: from codes (B, ...) to one tensor (B, ...).

    A tensor whose first axis is 1 is taken as a batch of one; any other tensor with axes is one entry of a batch. Both
    are repeated for every code. Numbers and other inputs are passed unchanged.

    Args:
        body: the module.
        call: what is passed beside the code, and which output is used.
        code: the argument name of the code; None passes it as the first argument.
        run: what calls it, ``run(body, z, **inputs)``.
    """

    def __init__(
        self,
        body: nn.Module,
        call: GeneratorCall = GeneratorCall(),
        code: str | None = None,
        run: Callable[..., Any] = _call,
    ) -> None:
        super().__init__()
        self.body, self.run, self.output, self.code = body, run, call.output, code
        self.held = dict(call.inputs)
        self.title = getattr(body, "title", type(body).__name__)
        self.training = False

    def forward(self, z: Tensor) -> Any:
        """The chosen output."""
        return picked(self._result(z), self.output)

    def parts(self, z: Tensor) -> dict[str, Shape]:
        """The shapes of the named parts of an output; z is a batch of codes."""
        assert isinstance(self.output, Mapping)
        with torch.no_grad():
            result = self._result(z)
            return {name: tuple(picked(result, pick).shape[1:]) for name, pick in self.output.items()}

    def _result(self, z: Tensor) -> Any:
        code = ((z,), {}) if self.code is None else ((), {self.code: z})
        held = {name: _rows(value, z) for name, value in self.held.items()}
        labels = {name: z.new_full((len(z),), n, dtype=torch.int64) for name, n in held.items() if type(n) is int}
        try:
            try:
                return self.run(self.body, *code[0], **code[1], **held)
            except TypeError:  # an embedding takes no integer but a tensor of labels
                if not labels:
                    raise
            return self.run(self.body, *code[0], **code[1], **held | labels)
        except IndexError as error:
            sizes = sorted({m.num_embeddings for m in self.body.modules() if isinstance(m, nn.Embedding)})
            allowed = " or ".join(f"0 to {size - 1}" for size in sizes)
            raise IndexError(f"{error}; the module's embeddings take {allowed}" if sizes else error) from error


def _rows(value: Any, z: Tensor) -> Any:
    """A tensor with axes as a row for each code, with the codes' precision; anything else unchanged."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(z) if value.is_floating_point() else value.to(z.device)
    if not value.dim():
        return value
    row = value if value.shape[0] == 1 else value[None]
    return row.expand(z.shape[0], *row.shape[1:])


def concatenated(parts: Mapping[str, Any]) -> Any:
    """Parts (B, ...) as one flat output, (B, n).

    Raises:
        UnsupportedModelError: a part is not a tensor, or they have different numbers of entries in a batch.
    """
    for name, part in parts.items():
        if not isinstance(part, Tensor):
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


def code_name(given: Callable[..., Any], call: GeneratorCall) -> str | None:
    """The argument name of the code in a module or function; None if the code is its first input, or not known.

    Raises:
        UnsupportedModelError: a required input is missing.
        ModelError: an input was given that the module does not take.
    """
    signature = None
    with suppress(TypeError, ValueError):  # builtin functions have no signature
        signature = inspect.signature(given.forward if isinstance(given, nn.Module) else given)
    if signature is None or isinstance(given, torch.jit.ScriptModule):
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
