"""Inverting a network from its output to its input, one layer at a time.

The measurement becomes a part of the last layer.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import sparse

from unrelu.errors import InputError, SolverError, UnsupportedModelError
from unrelu.layerwise import LayerMethod, LayerSystem
from unrelu.measurements import Operator
from unrelu.measurements.folding import FoldedChain, is_one_layer
from unrelu.models.generator import Generator
from unrelu.models.network import Network, small
from unrelu.opaque.opaque_network import as_chain, unchained
from unrelu.parameters.latent_bounds import Bounds
from unrelu.problem import Problem
from unrelu.result import Ending, Inversion, Status
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import cores, in_threads
from unrelu.runtime.memory_limits import DENSE_NUMBERS
from unrelu.runtime.run_control import Progress, now


def observed_systems(network: Network, problem: Problem, last: LayerSystem) -> list[tuple[LayerSystem, Array]]:
    """Join the last layer and the measurement of each observation to one layer, and return it with its output.

    Observations with the same layer share its system.
    """
    chain, systems = FoldedChain(network, problem.operator, problem.y), {id(network.layers[-1].matrix()): last}
    found = []
    for i in range(problem.size):
        (*_, layer), values = chain.of(i)
        if id(layer.matrix) not in systems:
            matrix = layer.dense if isinstance(last.matrix, np.ndarray) else layer.matrix
            systems[id(layer.matrix)] = replace(last, matrix=matrix, bias=layer.bias, activation=layer.activation)
        system, weight = systems[id(layer.matrix)], layer.weight
        if weight is not None:
            # The activation is positively homogeneous.
            system = replace(system, matrix=sparse.diags_array(weight) @ system.matrix, bias=system.bias * weight)
        found.append((system, values))
    return found


def unfoldable(network: Network, problem: Problem) -> str | None:
    """Say why the last layer and the measurement together are no layer; None if they are one."""
    if is_one_layer(network, problem.operator):
        return None
    if not problem.operator.linear:
        return f"{problem.operator.unweighted.refused}, so the last layer and the measurement together are no layer"
    what = "noise= with entries that differ or are correlated weighs or" if problem.given else "operator="
    return f"{what} mixes the outputs of the last activation ({network.layers[-1].activation})"


@dataclass(frozen=True)
class Layerwise:
    """Invert the last layer, then the layer before for the input found, and so on down to the latent code.

    Each layer starts from the final threshold of the layer above, as in the released code of the paper. The last layer
    starts from the stated noise, or near zero if none is stated. No step uses a true hidden layer. If the LP solver
    breaks down on an observation, its code is NaN, and the other observations go on.

    Args:
        layer_method: the method that inverts one layer.
        name: the name to report.

    Raises:
        UnsupportedModelError: the network is no chain of layers, a layer's activation is not monotone (a PReLU with a
            negative slope), the measurement mixes outputs of an activation, or y are counts.
        InputError: the problem has a prior.

    Source: section 4 of the paper, "recursively applying Algorithm 1 backwards".
    """

    layer_method: LayerMethod
    name: str

    def check(self, problem: Problem) -> None:
        """Raise the errors of the class before any work is done."""
        if problem.prior:
            prior = f"{problem.prior:g}" if problem.normal is None else "Normal"
            raise InputError(
                f"prior={prior}: method={self.name!r} inverts layers, which have no |z|^2; use 'auto' or 'lm'"
            )
        others = "use 'auto', 'lm', 'adam' or 'gradient_descent'"
        if problem.stated_loss is not None:
            raise UnsupportedModelError(f"method={self.name!r} does not minimise norm={problem.norm!r}: {others}")
        if problem.noise.likelihood is not None:
            raise UnsupportedModelError(
                f"method={self.name!r} is for errors that are added to the output and compared in a norm; "
                f"noise={problem.noise} has a deviance: {others}"
            )
        network = check_invertible(problem.network, self.name, self.layer_method.largest)
        if reason := unfoldable(network, problem) or undetermined(network, problem.operator):
            raise UnsupportedModelError(
                f"method={self.name!r} inverts layer by layer, but {reason}: use method='auto' or 'lm'"
            )

    def __call__(self, problem: Problem) -> Inversion:
        """Invert the observations of a problem that was checked, in one thread for each core."""
        network = as_chain(problem.network, self.name)
        *hidden, last = layer_systems(network, problem.bounds)
        observed = observed_systems(network, problem, last)

        def timed(seen: tuple[LayerSystem, Array]) -> tuple[Array | None, Status | Ending, int, float]:
            begin = now()
            return *self._one([*hidden, seen[0]], seen[1], problem), now() - begin

        z = np.full((problem.size, problem.network.latent_dim), np.nan)
        status = np.full(problem.size, Status.TIME_LIMIT, dtype=object)
        nit, seconds = np.zeros(problem.size, dtype=np.int64), np.zeros(problem.size)
        threads = cores() if problem.size > 1 and small(problem.network) else 1
        with closing(in_threads(timed, observed, threads)) as results:
            for i, (code, status[i], nit[i], seconds[i]) in enumerate(results):
                if code is not None:
                    z[i] = code
                progress = partial(Progress, self.name, int(nit[i]), i + 1, problem.size, z.copy())
                if problem.control.stopped(progress):
                    status[i + 1 :] = Status.STOPPED
                    break
        return Inversion.of(
            problem, z, method=self.name, status=status, nit=nit, norm=self.layer_method.norm, seconds=seconds
        )

    def _one(self, systems: list[LayerSystem], y: Array, problem: Problem) -> tuple[Array | None, Status | Ending, int]:
        """Invert one observation; return its code or None, how it ended, and the number of programs solved."""
        target, threshold = y, problem.noise.size or None
        noise = problem.noise if problem.noise.stated else None
        statuses: list[Status | Ending] = [Status.TIME_LIMIT] if problem.control.expired() else []
        solves = 0
        for system in reversed(systems):
            if Status.TIME_LIMIT in statuses:
                return None, Status.TIME_LIMIT, solves
            try:
                solution = self.layer_method(system, target, threshold, problem.control.remaining(), noise)
            except SolverError:
                return None, Ending.SOLVER_FAILED, solves
            solves += solution.solves
            if not np.isfinite(solution.h).all():
                return None, Ending.SOLVER_FAILED, solves
            statuses.append(solution.status)
            target, threshold, noise = solution.h, system.input_threshold(solution.h, solution.threshold), None
        return target, _overall(statuses), solves


def layer_systems(network: Network, bounds: Bounds) -> list[LayerSystem]:
    """Make the systems of the layers, first to last. Bounds of the code are bounds of the first layer's input."""
    before = [None, *(layer.activation for layer in network.layers[:-1])]
    precision = torch.finfo(network.dtype).eps

    def made() -> list[LayerSystem]:
        return [
            LayerSystem.of(layer, previous, precision) for layer, previous in zip(network.layers, before, strict=True)
        ]

    systems = list(network.once("systems", made))
    if not bounds.none:
        systems[0] = replace(systems[0], lower=bounds.lower, upper=bounds.upper)
    return systems


def check_invertible(generator: Generator, method: str, largest: float = math.inf) -> Network:
    """Return the generator as a chain of layers that can be inverted one by one.

    Raises:
        UnsupportedModelError: it is no chain, an activation is not monotone, or a matrix has more than ``largest``
            entries.
    """
    network = as_chain(generator, method)
    if reason := _obstacle(network, largest):
        raise UnsupportedModelError(f"{reason}, so method={method!r} cannot invert it layer by layer; use method='lm'")
    return network


def _obstacle(network: Network, largest: float) -> str | None:
    """Name the first layer with an activation that is not monotone, or more than ``largest`` entries, in a clause."""
    for i, layer in enumerate(network.layers, 1):
        if not layer.activation.monotone:
            prelu = f"a PReLU with a negative slope ({layer.activation.slope.min():g})"
            return f"layer {i} has {f'the activation {layer.activation}' if layer.activation.smooth else prelu}"
        if layer.n_in * layer.n_out > largest:
            return f"layer {i} ({layer.n_in} -> {layer.n_out}) is too large for dense factorisations"
    return None


def undetermined(network: Network, operator: Operator | None = None) -> str | None:
    """Name the first layer after layer 1 that has fewer outputs than inputs, in a clause; None if there is none.

    The output of such a layer does not determine its input. The input that is found is then not in the range of the
    layers before, and the code is lost. For layer 1 this does not matter: any code with its output fits.

    Args:
        network: G.
        operator: A; the last layer has as many outputs as the observation with the most entries.
    """
    for i, layer in enumerate(network.layers[1:], 2):
        observed, what = layer.n_out, ""
        if operator is not None and i == len(network.layers):
            observed = min(observed, int(operator.seen(max(1, operator.count)).sum(axis=1).max()))
            what = f", of which {observed} are observed" if observed < layer.n_out else ""
        if observed < layer.n_in:
            return (
                f"layer {i} ({layer.n_in} -> {layer.n_out}{what}) has fewer outputs than inputs, so it does not "
                "determine the outputs of the layers before it"
            )
    return None


def _overall(statuses: list[Status | Ending]) -> Status | Ending:
    """Combine the statuses of the layers, last layer first, into that of the inversion; exact fits are judged later."""
    for earlier in (Ending.SOLVER_FAILED, Status.TIME_LIMIT):
        if earlier in statuses:
            return earlier
    # If the input of a layer was not unique, a layer below may fail because the wrong input was chosen.
    for status in statuses:
        if status is Status.NOT_UNIQUE:
            return Ending.UNDETERMINED
        if status is Ending.NOT_REALIZABLE:
            return status
    return Status.CONVERGED


def layerwise_reason(network: Generator) -> str | None:
    """Say why ``auto`` does not start layer by layer on this network; None if it does."""
    if not isinstance(network, Network):
        return unchained(network)
    for i, layer in enumerate(network.layers, 1):
        if layer.expansion < 1:
            return f"layer {i} does not expand ({layer.n_in} -> {layer.n_out})"
    return _obstacle(network, DENSE_NUMBERS)
