"""A certificate and its verification, which needs no search: :meth:`Certificate.verify`.

A certificate states bounds on the smallest error over all codes. Verification recomputes all its numbers from the
network, the observation and the multipliers of its proofs (:mod:`~unrelu.certification.proof`). No module of the search
is imported here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from unrelu.certification.certified_chain import CertifiedChain, chain_of
from unrelu.certification.proof import GAP, BoundsAt, Proof, ProofStatus
from unrelu.diagnostics.identifiability import local_rank
from unrelu.display.text_tables import Printed
from unrelu.errors import InputError
from unrelu.measurements import Operator
from unrelu.measurements.working_units import Coordinates, on_coordinates
from unrelu.models.generator import Generator
from unrelu.parameters.latent_bounds import Bounds
from unrelu.problem import Problem
from unrelu.result.verdict_text import uniqueness
from unrelu.runtime.archives import Table, array_of, number_of, read_archive, text_of, write_archive
from unrelu.runtime.array_types import Array, Shape
from unrelu.runtime.host import flush_subnormals
from unrelu.runtime.words import count, duration
from unrelu.thresholds import EXACT_FIT_TOLERANCE

# F(z) may differ between machines by this share of the data.
_SAME = 1e-12
# The most certificates in the table of a printed batch.
_LARGEST_GAPS = 12
# The most entries of a history; a search of an hour has thousands.
_LONGEST_HISTORY = 10**6
# The types in files, by annotation: of numbers, and of the arrays of a proof.
_NUMBERS: dict[Any, Any] = {"float": np.float64, "int": np.int64, "bool": np.bool_}
_ARRAYS: dict[Any, Any] = {"Array": np.float64, "Integers": np.int64}


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    r"""Bounds on min F over all codes z, or over all codes within ``bounds``.

    F(z) = \|y - A G(z)\| is the largest error ("linf") or the sum of errors ("l1").

    Attributes:
        lower: no code has a smaller F. This follows from multipliers with outward rounding, not from a solver's claim.
        upper: F at ``z``.
        gap: (upper - lower) / max(upper, 1e-8 max|y|); closed at 1e-6.
        z: the best known code, ``latent_shape``; at least as good as the given code.
        status, message: how the proof ended.
        norm: the norm of F.
        identifiable, rank: whether no other code near z and within ``bounds`` has the same A G(z), and the rank of A J
            at z. Both refer to the linear regions that meet at z, see :class:`~unrelu.Identifiability`.
        eps: the stated bound on \|e_j\|, NaN if none was stated.
        box: an interval for each latent coordinate, ``(*latent_shape, 2)``. They contain every z with
            \|y - A G(z)\|_inf <= eps; (inf, -inf) if there is no such z. None without eps, if no box was requested, or
            if the time ran out.
        radius: infinite if bounds and box hold for all codes. Otherwise they hold for codes with \|z_i\| <= radius,
            as there is a direction of the code in which no bound could be proved.
        nodes: number of solved relaxations.
        seconds: wall time of the bounds, without the box.
        history: the bounds over time. Nodes, seconds and history only describe the effort; nothing proves them.
        exponents: exponents of the units of the proofs, see :mod:`unrelu.measurements.working_units`. Outputs of layer
            l are multiplied by 2^exponents[l].
        proof, box_proof: the proofs that :meth:`verify` checks.
        bounds: lower and upper bounds of the codes considered, ``(*latent_shape, 2)``; None for all codes.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> certificate = unrelu.certify(net, [1.0, 0.0, 0.4])
    >>> certificate.status.name, certificate.verify(net, [1.0, 0.0, 0.4])
    ('OPTIMAL', True)
    """

    lower: float
    upper: float
    z: Array
    status: ProofStatus
    norm: str
    identifiable: bool
    rank: int
    eps: float
    box: Array | None
    radius: float
    nodes: int
    seconds: float
    scale: float
    proof: Proof | None = field(repr=False)
    box_proof: Proof | None = field(repr=False)
    history: tuple[BoundsAt, ...] = field(repr=False, default=())
    exponents: tuple[int, ...] = field(repr=False, default=())
    bounds: Array | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        for array in (self.z, self.box, self.bounds):
            if array is not None:
                array.setflags(write=False)

    def __repr__(self) -> str:
        return f"<Certificate: {self.status.name}, {self.norm} error from {self.lower:.6g} to {self.upper:.6g}>"

    def __str__(self) -> str:
        """Say what is proved, in at most 15 lines."""
        return str(self._printed())

    def _repr_html_(self) -> str:
        return self._printed().html()

    def _printed(self) -> Printed:
        """Put the proved statements into words."""
        bound = f"no code has one below {self.lower:.6g}" if self.lower > 0 else "nothing was proved of other codes"
        inside = ""
        if self.box is not None:
            low, high = self.box[..., 0], self.box[..., 1]
            inside = f"every code with errors up to {self.eps:.6g} is in c.box, intervals of width "
            inside += f"{(high - low).min():.3g} to {(high - low).max():.3g}"
            inside = inside if (low <= high).all() else f"empty: no code has errors up to {self.eps:.6g}"
        held = 0 if self.bounds is None else int((self.bounds[..., 0] == self.bounds[..., 1]).sum())
        return Printed("Certificate", [
            (self.status.name, self.message),
            ("error", f"{self.upper:.6g} ({self.norm}) at the code z; {bound} (gap {self.gap:.2g})"),
            ("box", inside),
            ("uniqueness", uniqueness(self.identifiable, self.rank, -1, self.z.size - held)),
            ("effort", f"{count(self.nodes, 'relaxation')} in {duration(self.seconds)}"),
            ("check", "c.verify(network, y), from the multipliers that are stored" if self.proof else ""),
        ])  # fmt: skip

    @property
    def gap(self) -> float:
        """(upper - lower) / max(upper, 1e-8 max|y|)."""
        return (self.upper - self.lower) / (max(self.upper, EXACT_FIT_TOLERANCE * self.scale) or 1.0)

    @property
    def message(self) -> str:
        """The status in a sentence, with the codes for which it holds."""
        among = [] if self.bounds is None else ["within the bounds"]
        if not math.isinf(self.radius):
            among.append(f"with |z_i| <= {self.radius:g}")
        return f"{self.status.value} (among codes {' and '.join(among)})" if among else self.status.value

    @property
    def out_of_range(self) -> bool:
        """Whether it is proved that no code up to ``radius`` explains the observation within eps.

        False if ``z`` is beyond the radius, because z itself may explain the observation.
        """
        if np.abs(self.z).max() > self.radius:
            return False
        return (self.norm == "linf" and self.lower > self.eps) or (
            self.box is not None and bool((self.box[..., 0] > self.box[..., 1]).any())
        )

    def verify(self, network: Generator, y: npt.ArrayLike, operator: Any = None) -> bool:
        """Check whether every number follows from the stored proofs, the network and the observation.

        Bounds and box are checked without a solver. Rank and identifiability of z are recomputed, with small linear
        programs if neurons are at their kink.

        Args:
            network: G.
            y: the observation, as it was certified.
            operator: A, as it was certified.

        Raises:
            InputError: y or operator do not fit the network.
            UnsupportedModelError: this network cannot be certified.
        """
        return self.flaw(network, y, operator) is None

    def flaw(self, network: Generator, y: npt.ArrayLike, operator: Any = None) -> str | None:
        """Name the first statement that does not follow, in a sentence; None if all follow. See :meth:`verify`."""
        with flush_subnormals(False):
            return next(self._flaws(network, y, operator), None)

    def _flaws(self, network: Generator, y: npt.ArrayLike, operator: Any) -> Iterator[str]:
        """Yield the statements that do not follow. Only the first one counts, as later checks rely on earlier ones."""
        if self.norm not in ("linf", "l1"):
            yield f"norm {self.norm!r} is neither 'linf' nor 'l1'"
        problem = Problem.build(network, y, operator=operator, scale="none")
        shape, measured, bounds = network.latent_shape, problem.operator, None
        if problem.size != 1:
            raise InputError(f"y has shape {np.shape(y)}; a certificate is about one observation, {measured.shape}")
        if measured.unweighted is not measured:
            yield "operator= has weights of entries; pass the one that was certified"
        if self.z.shape != shape or not np.isfinite(self.z).all():
            yield f"z has shape {self.z.shape}, the network takes {shape}"
        if self.box is not None and self.box.shape != (*shape, 2):
            yield f"the multipliers prove another box, of shape {(*shape, 2)}, not {self.box.shape}"
        if self.bounds is not None:
            if self.bounds.shape != (*shape, 2) or not np.isfinite(self.bounds).all():
                yield f"bounds have shape {self.bounds.shape}; finite ones of shape {(*shape, 2)} are needed"
            bounds = Bounds(*self.bounds.reshape(-1, 2).T)
            if not (bounds.lower <= bounds.upper).all():
                yield "a lower bound is above the upper one"
            if (bounds.clip(self.z.reshape(-1)) != self.z.reshape(-1)).any():
                yield "z is outside of the bounds"
        chain = chain_of(network.plain, measured, problem.y[0], self.norm, bounds).in_units(self.exponents)
        if chain is None:
            yield f"its units, {self.exponents}, are none of this network"
        else:
            found = determination(network.plain, self.z.reshape(-1), measured, bounds)
            if found != (self.rank, self.identifiable):
                yield f"the rank at z and whether it is identifiable are {found}, not {self.rank, self.identifiable}"
            flat = self.rescaled(self.exponents[-1], (network.latent_dim,))
            yield from _flaws_in_units(flat, chain, replace(chain, norm="linf"))

    def rescaled(self, exponent: int, latent_shape: Shape) -> Certificate:
        """Reshape the codes, and multiply all bounds by 2^exponent: proofs are found and checked on flat codes."""
        with np.errstate(over="ignore", under="ignore"):
            lower, upper, eps, scale = np.ldexp([self.lower, self.upper, self.eps, self.scale], exponent).tolist()
        box, bounds = (None if ends is None else ends.reshape(*latent_shape, 2) for ends in (self.box, self.bounds))
        z = self.z.reshape(latent_shape)
        return replace(self, lower=lower, upper=upper, eps=eps, scale=scale, z=z, box=box, bounds=bounds)

    def save(self, path: str | Path) -> None:
        """Write to a .npz file, with all numbers exact and a digest.

        Raises:
            InputError: another suffix, or the folder does not exist.
            StorageError: the disk is full, or permission is denied.
        """
        write_archive(Path(path), "certificate", table_of(self))

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read a file written by :meth:`save`. Nothing is unpickled. :meth:`verify` checks the certificate.

        Args:
            path: the file.

        Raises:
            InputError: the file does not exist, is damaged or no certificate, or is larger than the setting
                ``UNRELU_MAX_FILE_BYTES`` allows.
        """
        return cls(**read_archive(path, "certificate", fields_of))


# --- verification: statements that do not follow ----------------------------------------------------------------------


def conclusions(certificate: Certificate, chain: CertifiedChain) -> list[tuple[ProofStatus, bool]]:
    """List the statuses that state a result, the strongest first, and whether each holds."""
    return [
        (ProofStatus.OUT_OF_RANGE, certificate.out_of_range),
        (ProofStatus.EXACT_FIT, chain.exact(certificate.z)),
        (ProofStatus.OPTIMAL, certificate.gap <= GAP * (1 + 1e-9)),
    ]


def _flaws_in_units(c: Certificate, chain: CertifiedChain, largest: CertifiedChain) -> Iterator[str]:
    """Yield the same for a flat code in the units of a chain; ``largest`` is the chain with the norm of boxes."""
    value = chain.objective(c.z)
    off = _SAME * max(chain.scale, min(value, c.upper)) * (1 if c.norm == "linf" else len(chain.y))
    if not (abs(value - c.upper) <= off and abs(c.scale - chain.scale) <= off):
        yield f"F(z) is {value:.17g}, not {c.upper:.17g}; pass the observation and operator= that were certified"
    proofs = [(proof, about) for proof, about in ((c.proof, chain), (c.box_proof, largest)) if proof is not None]
    yield from (flaw for proof, about in proofs if (flaw := proof.flaw(about)))
    lower = 0.0 if c.proof is None else c.proof.lower(chain)
    if not 0 <= c.lower <= lower:
        yield f"the multipliers prove a lower bound of {lower:.17g}, not {c.lower:.17g}"
    if (c.box is None) != (c.box_proof is None):
        yield "there is no proof of the box, or no box of the proof"
    if c.box is not None and c.box_proof is not None:
        if not c.box_proof.level > c.eps:
            yield f"the box is about errors below {c.box_proof.level:g}, not up to {c.eps:g}"
        proved = c.box_proof.box(largest)
        if not ((c.box[:, 0] <= proved[:, 0]) & (c.box[:, 1] >= proved[:, 1])).all():
            yield "the multipliers prove another box"
    radius = min((proof.radius(about) for proof, about in proofs), default=math.inf)
    # The radius must be that of the proofs, or smaller by no more than rounding errors on another machine.
    if not radius * (1 - _SAME) <= c.radius <= radius:
        yield f"the proofs are about codes up to {radius:g}, not {c.radius:g}"
    if c.eps < 0 or not dict(conclusions(c, chain)).get(c.status, True):
        yield f"{c.status} does not follow from the bounds and the box for an eps of {c.eps:g}"


# --- files: a table of numbers and arrays by name ---------------------------------------------------------------------


def table_of(certificate: Certificate) -> dict[str, Any]:
    """Make a table of all texts, numbers and arrays of a certificate, each under its own name."""
    table = {name: kind(getattr(certificate, name)) for name, kind in _numbers_of(Certificate)}
    table |= {"norm": certificate.norm, "status": certificate.status.name, "z": certificate.z}
    table |= {name: a for name in ("box", "bounds") if (a := getattr(certificate, name)) is not None}
    table["exponents"] = np.array(certificate.exponents, dtype=np.int64)
    table["history"] = np.array(certificate.history, dtype=np.float64).reshape(-1, 4)
    for name in ("proof", "box_proof"):
        if (proof := getattr(certificate, name)) is not None:
            table |= {f"{name}.{entry.name}": getattr(proof, entry.name) for entry in fields(Proof)}
    return table


def fields_of(table: Table) -> dict[str, Any]:
    """Restore the fields of a certificate from its table; raise KeyError, TypeError or ValueError if one is invalid."""
    history = array_of(table["history"], np.float64).reshape(-1, 4)
    if len(history) > _LONGEST_HISTORY:
        raise ValueError(f"the history has {len(history):,} entries")
    return {
        **{name: number_of(table[name], kind) for name, kind in _numbers_of(Certificate)},
        "norm": text_of(table["norm"]), "status": ProofStatus[text_of(table["status"])],
        "z": array_of(table["z"], np.float64),
        **{name: array_of(table[name], np.float64) if name in table else None for name in ("box", "bounds")},
        **{name: _proof(table, name) if f"{name}.level" in table else None for name in ("proof", "box_proof")},
        "exponents": tuple(array_of(table["exponents"], np.int64).reshape(-1).tolist()),
        "history": tuple(BoundsAt(float(s), int(n), float(a), float(b)) for s, n, a, b in history),
    }  # fmt: skip


def _numbers_of(kind: type[Certificate | Proof]) -> list[tuple[str, Any]]:
    """List the fields that are numbers, with their types in files."""
    return [(entry.name, _NUMBERS[entry.type]) for entry in fields(kind) if entry.type in _NUMBERS]


def _proof(table: Table, name: str) -> Proof:
    """Restore a proof from its numbers and flat arrays."""
    values: dict[str, Any] = {entry: number_of(table[f"{name}.{entry}"], kind) for entry, kind in _numbers_of(Proof)}
    for entry in fields(Proof):
        if entry.type in _ARRAYS:
            values[entry.name] = array_of(table[f"{name}.{entry.name}"], _ARRAYS[entry.type]).reshape(-1)
    return Proof(**values)


# --- batches ----------------------------------------------------------------------------------------------------------


class Certificates(Sequence[Certificate]):
    """The certificates of a batch, one for each observation.

    ``c[i]`` is one certificate. A slice, a boolean mask or an array of indices returns Certificates.

    Attributes:
        lower, upper, gap: the numbers of each certificate, (B,).
        status: the :class:`~unrelu.ProofStatus` of each, (B,), dtype object.

    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
    >>> certificates = unrelu.certify(net, [[1.0, 0.0, 0.4], [1.0, 0.0, 0.7]])
    >>> certificates.lower.round(3), len(certificates[certificates.gap < 1e-6])
    (array([0.067, 0.133]), 2)
    """

    def __init__(self, certificates: Iterable[Certificate]) -> None:
        self._all = tuple(certificates)
        self.lower: Array = np.array([c.lower for c in self._all])
        self.upper: Array = np.array([c.upper for c in self._all])
        self.gap: Array = np.array([c.gap for c in self._all])
        self.status = np.array([c.status for c in self._all], dtype=object)
        for array in (self.lower, self.upper, self.gap, self.status):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, index: int) -> Certificate: ...
    @overload
    def __getitem__(self, index: slice | npt.NDArray[Any] | list[Any]) -> Certificates: ...
    def __getitem__(self, index: Any) -> Certificate | Certificates:
        chosen = np.arange(len(self))[index]
        return self._all[chosen] if np.ndim(chosen) == 0 else Certificates(self._all[i] for i in chosen)

    def __repr__(self) -> str:
        return f"<Certificates: {len(self)}, {self._counts()}>"

    def __str__(self) -> str:
        """Count the certificates by status, and list the largest gaps, in at most 15 lines."""
        return str(self._printed())

    def _repr_html_(self) -> str:
        return self._printed().html()

    def _counts(self) -> str:
        """Say how many certificates have each status."""
        return ", ".join(f"{n} {name}" for name, n in Counter(s.name for s in self.status).most_common())

    def _printed(self) -> Printed:
        """Count the certificates by status, with a table of those with the largest gaps."""
        chosen = ((i, self._all[i]) for i in np.argsort(-self.gap, kind="stable")[:_LARGEST_GAPS])
        rows = [
            [str(i), c.status.name, f"{c.lower:.6g}", f"{c.upper:.6g}", f"{c.gap:.2g}", str(c.rank)] for i, c in chosen
        ]
        title = f"{count(len(self), 'certificate')}: {self._counts()}; the largest gaps:"
        return Printed(title, tables=[("", ("index", "status", "lower", "upper", "gap", "rank"), rows)])

    def verify(self, network: Generator, y: npt.ArrayLike, operator: Any = None) -> bool:
        """Check whether every certificate verifies, see :meth:`Certificate.verify`.

        Args:
            network: G.
            y: the observations (B, ...), as they were certified.
            operator: A, as it was certified: one for all, or a mask for each.

        Raises:
            InputError: y or operator do not fit the network, or there are not as many observations as certificates.
            UnsupportedModelError: this network cannot be certified.
        """
        problem = Problem.build(network, y, operator=operator, scale="none")
        if problem.single or problem.size != len(self):
            raise InputError(f"y has shape {np.shape(y)}; pass the {len(self)} observations that were certified")
        one_by_one = (problem.operator.take(np.array([i])) for i in range(len(self)))
        return all(c.verify(network, y, a) for c, y, a in zip(self, problem.y, one_by_one, strict=True))


def determination(network: Generator, z: Array, operator: Operator, bounds: Bounds | None) -> tuple[int, bool]:
    """Compute the rank of A J at a code (k,), and whether no other code near it within the bounds fits as well."""
    if bounds is not None and bounds.fixed.any():
        one = np.ones(int((~bounds.fixed).sum()))
        network = on_coordinates(network, Coordinates(0 * one, one, bounds, bounds.free))
        z, bounds = z[~bounds.fixed], bounds.free
    rank, dimension, _ = local_rank(network, z[None], operator, bounds=bounds)
    return int(rank[0]), bool(dimension[0] == 0)
