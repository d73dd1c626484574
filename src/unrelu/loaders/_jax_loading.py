"""Read a function of JAX as a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders._chain_reader import code_shape
from unrelu.loaders._torch_graph import network_of
from unrelu.models.generator import NamedGenerator
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.torch_callables import FunctionModule, GeneratorCall, Output, described
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

    shape = code_shape(latent_shape)
    call = GeneratorCall.parse(output)
    jaxed = checked(JaxFunction(function, shape, call), trial_codes(shape))
    with jaxed.precision():
        network = network_of(FunctionModule(as_torch(jaxed.traced)), shape, original=FunctionModule(jaxed))
    if isinstance(network, OpaqueNetwork):
        held = {each.name: getattr(network, each.name) for each in fields(network)}
        network = JaxNetwork(**held | {"function": jaxed, "width": max(network.width, jaxed.width)})
    return network.with_parts(call.parts) if isinstance(call.output, Mapping) else network
