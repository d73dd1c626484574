"""Read a PyTorch module or function as a network.

Reading takes three steps. First, :func:`~unrelu.loaders._recording.recorded` runs the module and records the operators
that it calls. Second, :mod:`~unrelu.loaders._chain_reader` follows the record from the code to the output and reads
layers by the table of :mod:`~unrelu.loaders._torch_operations`. Third, :mod:`~unrelu.opaque.output_comparison` compares
the outputs of these layers and of the module. If the module is not a chain, :func:`~unrelu.opaque.torch_opaque.opaque`
keeps it as it is.

A module that is wholly or partly in half precision or bfloat16 is read in double precision. The module itself rounds
after every operation. With 8 or 11 bits, this error is larger than any tolerance and often larger than the measurement
noise, so it is treated as noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._pytree import tree_map

from unrelu.errors import InputError, ModelError, OptionError, UnsupportedModelError
from unrelu.loaders._chain_reader import ChainWalk, code_shape
from unrelu.loaders._gated_activations import replace_gated_activations
from unrelu.loaders._pass_through import BranchWalk
from unrelu.loaders._recording import name_of, recorded
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.models.rounding_error import Rounding
from unrelu.opaque.opaque_network import OpaqueNetwork, plain_attention
from unrelu.opaque.output_comparison import EXACT, difference, watched
from unrelu.opaque.torch_callables import FunctionModule, GeneratorCall, Output, as_called, as_module, evaluated
from unrelu.opaque.torch_opaque import check_memory, opaque, trial_codes
from unrelu.parameters.latent_bounds import Bounds
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import known_arguments
from unrelu.runtime.array_types import Shape
from unrelu.runtime.host import computing
from unrelu.runtime.machine import usable
from unrelu.runtime.streams import stream
from unrelu.runtime.words import shown
from unrelu.wrappers.standardisation import before_scaling, meant_for, standardised

CPU = torch.device("cpu")
# The size of the recorded batch. If a module computes with this size, its outputs for other batches reveal it.
BATCH = 7
_OTHER_OUTPUTS = (
    "its layers have other outputs: it depends on the batch size, changes values, draws numbers or counts calls"
)
# The error of PyTorch's softplus. Outputs may differ by this multiple of the errors of activations.
_SOFTPLUS_ERROR, _DEVIATIONS = math.exp(-20), 1000.0
# The rounding level is this multiple of the largest error of the typical codes. Single outputs vary by less.
_MARGIN = 2.0


@known_arguments
@computing()
def from_torch(
    module: Callable[..., Any],
    latent_shape: int | tuple[int, ...] | None = None,
    *,
    output: Output = None,
    inputs: Mapping[str, Any] | None = None,
    bounds: Mapping[str, Any] | None = None,
    input_scale: object = None,
    output_scale: object = None,
    device: torch.device | str | None = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    r"""Read the layers :math:`\phi_d(A_d \cdots \phi_1(A_1 z + b_1) \cdots + b_d)` of a PyTorch module.

    The module or function is run, and the operators that it calls are read as layers, in float64. It is not changed;
    weights are copied, and modules are taken in evaluation mode.

    A module may not be a chain of layers: its graph branches, it uses operations that are neither affine maps nor known
    activations, or its control flow depends on computed numbers. Or its outputs differ from the outputs of the layers
    at some of 300 codes. It then becomes an :class:`~unrelu.opaque.opaque_network.OpaqueNetwork`, which "auto", "lm",
    "adam" and "gradient_descent" invert. A trial comes first: outputs must be finite, repeatable and independent of
    other codes in the batch, and derivatives must agree with finite differences. Modules are evaluated as float64
    copies. A function is called as it is, in the first of float64, float32, float16 and bfloat16 that it takes.

    Args:
        module: the generator: a module, a bound method of one such as ``model.decode``, a function of a tensor (also a
            lambda or a partial), a program of ``torch.jit``, or an ``ExportedProgram`` or its ``module()``. Layers are
            matrices, convolutions, batch normalisations, pooling by averages, resampling, operations that move or
            repeat entries, sums and products with constants, and the activations of :class:`unrelu.Activation`.
        latent_shape: shape of one latent code, without the batch axis; an integer k means (k,). None means (k,), where
            k is the input size of the first layer of a module, if it is an ``nn.Linear``. A convolution fits any height
            and width, so pass the shape if the first layer is a convolution: ``(in_channels, 1, 1)`` for a DCGAN.
        output: selects one output of a module that returns several: an attribute or key, ``"sample"``, an index, or a
            function of everything that it returns. A list of names and numbers, ``["mean", "scale"]``, or a dictionary
            of names, numbers and functions by name, ``{"mean": 0, "log scale": lambda x: x[1].log()}``, selects
            several: the output is these named parts (``net.parts``), flattened, one after the other.
        inputs: further inputs by name, ``{"c": one_hot}``, held fixed. A tensor whose first axis is 1 is one entry of
            a batch; any other tensor is an entry without the batch axis. Both are repeated for every code. A number
            is passed as it is; an integer, if the module does not take it so, as the tensor of a label,
            ``{"label": 3}``. For all else pass a function, ``lambda z: module(z, grid)``.
        bounds: ``{"h": (0.5, 0.9), ...}``, for a function of parameters in their own units: the name, the lower and the
            upper end of each coordinate of a code (B, k), in order, in place of ``latent_shape``. Trial codes come from
            this box. The box is the :attr:`~unrelu.Generator.domain`, so it also bounds searches.
        input_scale, output_scale: as in :func:`unrelu.from_arrays`, for a module that was trained on standardised
            parameters or outputs. Codes and ``bounds`` are then in units before the scaling.
        device: where the generator and searches on it are computed, e.g. "cuda"; None is the CPU, wherever the module
            is. A function is called with codes there.

    Raises:
        OptionError: ``output`` or ``inputs`` has a wrong type, ``latent_shape`` and ``bounds`` do not fit together, or
            ``device`` is not available.
        InputError: ``bounds`` are not pairs of increasing numbers by name.
        UnsupportedModelError: the module is neither a chain of layers nor a differentiable generator; the message
            says what breaks the chain and what failed in the trial.
        ModelError: the module is in training mode, shapes do not fit, weights are not finite, or ``latent_shape`` is
            needed.

    Source: equation (3) of the paper.

    >>> import torch, unrelu
    >>> net = unrelu.from_torch(torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU()), latent_shape=(2,))
    >>> net.output_shape
    (5,)
    """
    place = CPU if device is None else usable(device)
    call = GeneratorCall.parse(output, inputs)
    given, names, domain = code_arguments(latent_shape, bounds)
    module, given = _opened(module, given)
    body = as_module(module, call)
    for path, m in body.named_modules():
        if m.training and isinstance(m, _BatchNorm | _DropoutNd | _InstanceNorm):
            raise ModelError(f"module {path!r} ({type(m).__name__}) is in training mode; call module.eval() first")
    # Functions run on the chosen device from the start; modules are moved there once they are read.
    first = place if any(isinstance(m, FunctionModule) for m in body.modules()) else CPU
    # Random numbers that the module draws must not advance the caller's generator.
    with torch.random.fork_rng(devices=[]):
        network = _network(body, given, first, before_scaling(domain, input_scale))
    if input_scale is None and output_scale is None:
        named = with_names(network, call, names)
    else:
        named = meant_for(standardised(with_names(network, call, None), input_scale, output_scale, None), bounds)
    return named.to(device=place) if named.device != place else named


def code_arguments(
    latent_shape: int | tuple[int, ...] | None, bounds: Mapping[str, Any] | None
) -> tuple[Shape | None, list[str] | None, Bounds | None]:
    """Return the shape of one code, the names of its coordinates and its domain; None for each that is not given."""
    given = None if latent_shape is None else code_shape(latent_shape)
    if bounds is None:
        return given, None, None
    if not isinstance(bounds, Mapping) or not bounds:
        raise InputError(
            f"bounds={shown(bounds)} must be a dictionary of pairs by name, such as {{'h': (0.5, 0.9)}}, in the order "
            "in which the function takes the coordinates; of codes without names, pass latent_shape="
        )
    shape, names = (len(bounds),), list(bounds)
    if given not in (None, shape):
        raise OptionError(f"latent_shape={given}, and bounds= are of {len(bounds)} coordinates; leave one out")
    return shape, names, Bounds.parse(bounds, shape, Names(shape, ()).named(names))


def with_names(
    network: Network | OpaqueNetwork | NamedGenerator, call: GeneratorCall, names: list[str] | None
) -> Network | OpaqueNetwork | NamedGenerator:
    """Name the parts of the network's output and the coordinates of its codes."""
    named = network.with_parts(call.parts) if isinstance(call.output, Mapping) else network
    return named if names is None else named.named(names)


def _opened(given: Any, shape: Shape | None) -> tuple[Callable[..., Any], Shape | None]:
    """Unwrap the argument of from_torch; return the module or function, and the shape of its codes if known."""
    if isinstance(given, torch.export.ExportedProgram):
        given = given.module()
    inputs = given.graph.find_nodes(op="placeholder") if isinstance(given, fx.GraphModule) else []
    if inputs and all("val" in node.meta for node in inputs):
        program, own = _program(given)
        if shape not in (None, own):
            raise ModelError(f"latent_shape={shape}, but the program takes codes of shape {own}; leave it out")
        return program, own
    if not callable(given) or isinstance(given, type):
        what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise ModelError(
            f"from_torch takes a torch.nn.Module or a function of a tensor, got {what}; build the module, and load its "
            "weights by module.load_state_dict; for files use unrelu.load"
        )
    given = getattr(given, "_orig_mod", given)  # the module inside torch.compile's wrapper
    return given.module if isinstance(given, nn.DataParallel) else given, shape


def _network(
    module: nn.Module, given: Shape | None, device: torch.device, domain: Bounds | None
) -> Network | OpaqueNetwork:
    """Read the module for codes of the given shape; without one, infer it from the first layer."""
    if given is not None:
        return network_of(module, given, device, domain)
    layers = (m for m in module.modules() if isinstance(w := getattr(m, "weight", None), Tensor) and w.dim() > 1)
    first = next(layers, None)
    if not isinstance(first, nn.Linear):
        begins = f"; its first layer is {first}" if first else ""
        raise ModelError(
            f"pass latent_shape=, the shape of one latent code{begins}. For a convolution it is (channels, height, "
            "width), such as (100, 1, 1)"
        )
    try:
        return network_of(module, (first.in_features,), device)
    except ModelError as error:
        raise type(error)(
            f"{error} (latent_shape was taken to be {first.in_features}; pass latent_shape= if it is not)"
        ) from error


def network_of(
    module: nn.Module, shape: Shape, device: torch.device = CPU, domain: Bounds | None = None,
    original: nn.Module | None = None,
) -> Network | OpaqueNetwork:  # fmt: skip
    """Return the chain of layers that a module computes, or an opaque network if it is not a chain.

    Args:
        module: a module of codes (B, ...), which may call a function.
        shape: the shape of one code.
        device: the device of the codes passed to a function.
        domain: see :class:`~unrelu.Generator`.
        original: the generator that the module was made from. It replaces the module in comparisons and results.

    Raises:
        UnsupportedModelError: the module is neither a chain nor a differentiable generator.
        ModelError: shapes do not fit, or weights are not finite.
        HostError: the memory of this machine is too small for a gradient.
    """
    codes = trial_codes(shape, domain).to(device)
    program, original = (None, module) if original is None else (evaluated(module, codes), original)
    check_memory(original, codes)
    try:
        network, error = _chain(module, shape, device, domain)
        share = max(EXACT, _DEVIATIONS * error)
        reason = difference(network, evaluated(original, codes), device, share, program)
        reason = reason and f"{_OTHER_OUTPUTS} ({reason})"
    except UnsupportedModelError as refused:
        reason = str(refused)
    found = opaque(original, shape, reason, device, domain) if reason else network
    return _with_rounding(found, module, original)


def _chain(module: nn.Module, shape: Shape, device: torch.device, domain: Bounds | None) -> tuple[Network, float]:
    """Read the layers of a module, as a chain or else with branches; return the error of its activations, too."""
    inner, batch = (module.inner, module.batch) if isinstance(module, FixedBatchModule) else (module, BATCH)
    draws = stream("recorded codes").standard_normal((batch, *shape))
    codes = torch.from_numpy(draws if domain is None else domain.trial()[0].of_normal(draws)).to(device)
    graph = recorded(evaluated(inner, codes), codes)
    full = graph.output_node().args[0].meta["shape"]  # type: ignore[union-attr] # a node
    if not full or full[0] != batch or not math.prod(full):
        raise UnsupportedModelError(
            f"it maps {batch} codes to a tensor of shape {full}; the batch axis must stay the first"
        )
    softplus = any(name_of(node) == "softplus" for node in graph.nodes)
    error = max(replace_gated_activations(graph), _SOFTPLUS_ERROR if softplus else 0.0)
    try:
        parts = ChainWalk(shape, batch).along(graph)
    except UnsupportedModelError as refused:
        try:
            parts = BranchWalk(shape, batch).along(graph)
        except (ModelError, RuntimeError):  # the latter from operators that fit the recorded batch only
            raise refused from None
    return replace(Network.chain(parts, shape), domain=domain), error


# --- programs -----------------------------------------------------------------------------------------------------


class FixedBatchModule(nn.Module):
    """A wrapper that lets a module of one batch size take any: it repeats each code to fill a batch."""

    inner: nn.Module

    def __init__(self, inner: nn.Module, batch: int = 1) -> None:
        super().__init__()
        self.inner, self.batch, self.training = inner, batch, False
        self.title = getattr(inner, "title", type(inner).__name__)

    def forward(self, z: Tensor) -> Any:
        """Compute the outputs for codes."""
        with plain_attention():
            return torch.func.vmap(self._of_one)(z)

    def _of_one(self, code: Tensor) -> Any:
        return tree_map(self._first, self.inner(code.expand(self.batch, *code.shape)))

    def _first(self, x: Tensor) -> Tensor:
        if x.shape[:1] != (self.batch,):
            raise UnsupportedModelError(
                f"it maps {self.batch} codes to a tensor of shape {tuple(x.shape)}; the batch axis must stay the first"
            )
        return x[0]


def _program(program: fx.GraphModule) -> tuple[nn.Module, Shape]:
    """Convert a ``torch.export`` program to a module; return the shape of a code, too, from its input metadata."""
    values = (node.meta["val"] for node in program.graph.find_nodes(op="placeholder"))
    shapes = [tuple(x.shape) for x in values if isinstance(x, Tensor)]
    if len(shapes) != 1 or len(shapes[0]) < 2 or not all(isinstance(n, int) for n in shapes[0][1:]):
        raise UnsupportedModelError(
            f"the program takes inputs of shapes {', '.join(map(str, shapes))}; export one that takes codes (B, ...) "
            "alone, with all axes but the first fixed, and further inputs held fixed in its forward"
        )
    batch, *shape = shapes[0]
    graph = copy.deepcopy(program.graph)
    for guard in graph.find_nodes(op="call_module"):  # checks of the inputs, which cannot be copied
        graph.erase_node(guard)
    held = {node.target: attrgetter(node.target)(program) for node in graph.find_nodes(op="get_attr")}
    module = fx.GraphModule(held, graph, "ExportedProgram").eval()
    return FixedBatchModule(module, batch) if isinstance(batch, int) else module, tuple(shape)


# --- half precision ---------------------------------------------------------------------------------------------------


def _with_rounding(network: Network | OpaqueNetwork, module: nn.Module, original: nn.Module) -> Network | OpaqueNetwork:
    """Add the rounding error of the original module to the network if the original uses reduced precision."""
    z = torch.from_numpy(network.typical_codes).reshape(-1, *network.latent_shape).to(network.device)
    own, read = (as_called(each, z[:BATCH]) for each in (original, module))
    types = {torch.float32}
    if read is not None:
        watched(read, z[:BATCH], lambda x: types.add(x.dtype))
    coarsest = max(types, key=lambda kind: torch.finfo(kind).eps)
    if own is None or coarsest is torch.float32:
        return network
    z = z.to(own.dtype).to(network.device, torch.float64)
    with torch.no_grad():
        errors = own(z).flatten(1) - network.forward(z.flatten(1))
    level = _MARGIN * float(errors.square().mean(dim=1).sqrt().max())
    return replace(network, rounding=Rounding(coarsest, level)) if 0 < level < math.inf else network
