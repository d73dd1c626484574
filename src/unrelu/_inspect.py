"""Inspect a network before inverting it: expansion, active outputs, identifiability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np

from unrelu.certification.certified_chain import obstacle
from unrelu.diagnostics.identifiability import local_rank
from unrelu.display.text_tables import named_lines, text_table
from unrelu.errors import UnsupportedModelError
from unrelu.layerwise import Exact
from unrelu.layerwise.layer_by_layer import check_invertible, layerwise_reason
from unrelu.models.affine import Reshape
from unrelu.models.generator import Generator, as_generator
from unrelu.models.network import Layer, Network
from unrelu.runtime.argument_checks import whole_number
from unrelu.runtime.array_types import Flags
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.runtime.words import share

#: The least :math:`n_i / n_{i-1}` of the paper's Assumption 1.
ASSUMED_EXPANSION = 2.1
# With more undecided neurons than this, proofs for the zoo's networks take longer than minutes.
_MANY = 300
# The most printed lines of one fact. A reason names all layers that it concerns.
_LINES = 10
# A thousand samples estimate fractions to about a per cent; a request for more than this many is a mistake.
_MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class LayerInspection:
    """One layer, evaluated at sampled codes.

    Attributes:
        name: its affine steps.
        n_in, n_out: number of inputs and outputs.
        activation: the activation's name.
        expansion: n_out / n_in.
        expands: whether expansion is at least 2.1 (Assumption 1).
        determined: fraction of sampled codes for which at least n_in outputs determine their pre-activation, so that
            the layer can be inverted exactly from these.
    """

    name: str
    n_in: int
    n_out: int
    activation: str
    expansion: float
    expands: bool
    determined: float


@dataclass(frozen=True)
class Inspection:
    """A network, evaluated at codes drawn from N(0, I). It prints as a table of its layers, and what to expect.

    Attributes:
        layers: its layers; empty for an :class:`~unrelu.opaque.opaque_network.OpaqueNetwork`, whose layers are not
            known.
        samples: number of codes drawn.
        exact: fraction of codes with enough active outputs in every layer, which ``exact`` can be expected to recover.
            0 if the layers are not known.
        identifiable: fraction of codes where the Jacobian has rank k: without noise, the code is locally unique. NaN if
            the Jacobian is too large.
        verdict: whether exact inversion can be expected, or why not, in a sentence.
        recommended: how ``auto`` searches, in a sentence.
        provable: what :func:`~unrelu.certify` can be expected to prove, in words.
    """

    layers: tuple[LayerInspection, ...]
    samples: int
    exact: float
    identifiable: float
    verdict: str
    recommended: str
    provable: str

    def __str__(self) -> str:
        headings = ("layer", "map", "activation", "in", "out", "out/in", f">= {ASSUMED_EXPANSION}", "exact")
        rows = [
            (
                str(i), layer.name, layer.activation, str(layer.n_in), str(layer.n_out), f"{layer.expansion:.2f}",
                "yes" if layer.expands else "no", share(layer.determined, digits=0),
            )
            for i, layer in enumerate(self.layers, 1)
        ]  # fmt: skip
        legend = (
            f"out/in >= {ASSUMED_EXPANSION} is the paper's Assumption 1; exact: share of {self.samples} sampled codes "
            "for which at least as many outputs as inputs determine their pre-activation"
        )
        table = [*text_table(headings, rows, ("map", "activation")), *named_lines([("", legend)]), ""]
        known = "unknown"
        if not math.isnan(self.identifiable):
            known = f"{share(self.identifiable, digits=0)} of {self.samples} sampled codes"
        facts = [
            ("identifiable", known), ("expect", self.verdict), ("method", self.recommended), ("certify", self.provable)
        ]  # fmt: skip
        return "\n".join([*(table if rows else []), *named_lines(facts, _LINES)])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@computing()
def inspect(network: Generator, samples: int = 256, seed: int = 0) -> Inspection:
    """Draw codes from N(0, I), and inspect the layers and the Jacobian there.

    Args:
        network: the network; for an opaque one, only the Jacobian is inspected.
        samples: number of codes to draw.
        seed: seed of the draw.

    Raises:
        OptionError: ``network`` is not a generator, or ``samples`` is not a whole number from 1 to a million.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> seen = unrelu.inspect(net)
    >>> seen.layers[0].expansion, seen.identifiable
    (3.0, 1.0)
    """
    network = as_generator(network).plain
    size = whole_number("samples", samples, 1, _MOST_SAMPLES)
    z = network.within(stream("inspection", seed).standard_normal((size, network.latent_dim)))
    layers, every = [], np.full(size, isinstance(network, Network))
    for layer, on in zip(network.layers, network.pattern(z), strict=True) if isinstance(network, Network) else ():
        enough = _enough(layer, on)
        every &= enough
        steps = " + ".join(step.kind for step in layer.affine.steps if not isinstance(step, Reshape))
        layers.append(LayerInspection(
            steps or "Identity", layer.n_in, layer.n_out, str(layer.activation), layer.expansion,
            layer.expansion >= ASSUMED_EXPANSION, float(enough.mean()),
        ))  # fmt: skip
    exact = float(every.mean())
    identifiable = math.nan if network.too_large else float((local_rank(network, z)[1] == 0).mean())
    recommended = "auto: joint search from a linear estimate, samples, layer-wise least squares and random codes"
    if reason := layerwise_reason(network):
        recommended = (
            f"auto: joint search from a linear estimate, samples and random codes; not by layers, since {reason}"
        )
    expected = _expected(network, exact, identifiable)
    return Inspection(tuple(layers), size, exact, identifiable, expected, recommended, _provable(network))


def _enough(layer: Layer, on: Flags) -> Flags:
    """Find the codes at which at least n_in outputs determine their pre-activation; ``on`` marks the active neurons."""
    slopes = layer.activation.slopes(layer.n_out)
    determining = on.reshape(len(on), -1) | layer.activation.invertible | (slopes > 0)
    determining &= ~np.isnan(slopes) | layer.activation.invertible  # outputs of a swish have two origins
    return np.asarray(determining.sum(axis=1) >= layer.n_in)


def _expected(network: Generator, exact: float, identifiable: float) -> str:
    """Say whether exact inversion can be expected, in a sentence."""
    if network.too_large:
        return f"nothing can be said of identifiable codes: {network.too_large}"
    try:
        check_invertible(network, "exact", Exact.largest)
    except UnsupportedModelError as error:
        return f"'exact' cannot be used: {error}"
    if exact == identifiable == 1:
        return "exact inversion without noise can be expected, layer by layer (method='exact')"
    if identifiable == 1:
        return "codes are identifiable, but a layer has too few active rows to be inverted alone: use auto or lm"
    if identifiable > 0:
        part = share(identifiable, digits=0)
        return f"{part} of codes are identifiable; each of the others shares its output with a set of codes"
    return "codes are not identifiable: the output leaves some latent directions free"


def _provable(network: Generator) -> str:
    """Say what a certificate can be expected to prove, in words."""
    reason = obstacle(network)
    if reason is not None or not isinstance(network, Network):
        return f"nothing: {reason}"
    undecided = sum(int((layer.activation.slopes(layer.n_out) < 1).sum()) for layer in network.layers[:-1])
    what = "the smallest linf or l1 error over all codes, and a box of codes under uniform noise"
    if undecided > _MANY:
        return f"bounds on {what}; they seldom meet with {undecided} hidden neurons to decide"
    return f"{what}: {undecided} hidden neurons to decide"
