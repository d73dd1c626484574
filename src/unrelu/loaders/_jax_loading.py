"""Read a function of JAX as a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from unrelu.errors import ModelError
from unrelu.loaders._torch_graph import CPU, code_arguments, network_of, with_names
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import FunctionModule, GeneratorCall, Output
from unrelu.models.torch_opaque import trial_codes
from unrelu.runtime.host import computing


@computing()
def from_jax(
    function: Callable[..., Any],
    latent_shape: int | tuple[int, ...] | None = None,
    *,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    output: Output = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    from unrelu.loaders._jax_functions import JaxFunction, JaxNetwork, checked  # noqa: PLC0415 -- an optional dependency
    from unrelu.loaders._jaxpr_reading import as_torch  # noqa: PLC0415

    if not callable(function):
        raise ModelError(f"from_jax takes a function of one code, or a model that is one, got {type(function).__name__}")
    call = GeneratorCall.parse(output)
    shape, names, domain = code_arguments(latent_shape, bounds)
    if shape is None:
        raise ModelError("pass latent_shape=, the shape of one latent code, or bounds={'name': (lower, upper), ...}")
    jaxed = checked(JaxFunction(function, shape, call), trial_codes(shape, domain))
    with jaxed.precision():
        network = network_of(FunctionModule(as_torch(jaxed.traced)), shape, CPU, domain, FunctionModule(jaxed))
    if isinstance(network, OpaqueNetwork):
        held = {each.name: getattr(network, each.name) for each in fields(network)}
        network = JaxNetwork(**held | {"function": jaxed, "width": max(network.width, jaxed.width)})
    return with_names(network, call, names)
