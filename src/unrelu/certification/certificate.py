"""What can be said of the best code: bounds on the smallest error over all codes, and a proof to check them by.

A certificate is stored as JSON or npz: one flat table of names, numbers and arrays, with a digest of it all.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from unrelu.certification.certified_chain import CertifiedChain, chain_of
from unrelu.certification.proof import GAP, BoundsAt, MultiplierRows, Proof
from unrelu.diagnostics.identifiability import local_rank
from unrelu.display.text_tables import html_table, named_lines, shortened, text_table
from unrelu.errors import InputError
from unrelu.measurements import Operator, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.models.generator import Generator, numbers
from unrelu.result.verdict_text import uniqueness
from unrelu.runtime.file_reading import MAX_BYTES, check_limit, read_json, read_npz
from unrelu.runtime.file_writing import write_npz, write_whole
from unrelu.runtime.words import count, duration, share

Array = npt.NDArray[np.float64]

# F(z) as computed here and as computed elsewhere may differ by this share of the data.
_SAME = 1e-12
_FORMAT = "unrelu certificate 1"
_ADVICE = "free space, or name another file"
# Moments at which a bound improved; a search of an hour has thousands.
_LONGEST_HISTORY = 10**6
_NUMBERS = ("lower", "upper", "eps", "radius", "seconds", "scale")
_PROOFS = ("proof", "box_proof")
# What is printed of a batch: rows of the largest gaps, and characters of what a status means.
_LARGEST_GAPS, _MEANING = 4, 60
_PlainTable = tuple[list[str], list[list[str]], list[str]]


class ProofStatus(enum.Enum):
    """How a proof ended; the value says what it means.

    >>> import unrelu
    >>> [status.name for status in unrelu.ProofStatus][:2]
    ['OPTIMAL', 'EXACT_FIT']
    """

    OPTIMAL = "the gap is closed: no code has an error smaller by more than a millionth of it"
    EXACT_FIT = "the code fits the observation exactly, and no error is below zero"
    OUT_OF_RANGE = "no code explains the observation within the stated noise"
    TIME_LIMIT = "stopped at the time limit; the bounds are valid: raise time_limit to close the gap"
    NODE_LIMIT = "stopped at the limit of nodes; the bounds are valid: raise max_nodes to close the gap"
    STOPPED = "stopped by the callback; the bounds are valid"
    ROUNDING = "rounding errors keep the gap open; the bounds are valid"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    r"""Bounds on min F over all codes z, or all within ``bounds``.

    F(z) = \|y - A G(z)\| is the largest error ("linf") or the sum of errors ("l1").

    Attributes:
        lower: no code has a smaller F. It follows from multipliers with outward rounding, not from a solver's word.
        upper: F at ``z``.
        gap: (upper - lower) / max(upper, 1e-8 max|y|); closed at 1e-6.
        z: the best code known, (k,); at least as good as the one that was to be certified.
        status, message: how the proof ended.
        norm: of F.
        identifiable, rank: whether no other code near z has the same A G(z), and the rank of A J at z; of the linear
            regions that meet at z only, see :class:`~unrelu.Identifiability`. Codes beyond ``bounds`` are no other
            codes.
        eps: the stated bound of \|e_j\|, NaN if none was stated.
        box: an interval for each latent coordinate, (k, 2), that holds every z with \|y - A G(z)\|_inf <= eps;
            (inf, -inf) where there is no such z; None if no eps was stated, no box was asked for, or the
            time was not enough for one.
        radius: infinite where bounds and box are about all codes; otherwise they are about those with
            \|z_i\| <= radius, as the layers leave a direction in which no bound could be proved.
        nodes: relaxations solved.
        seconds: wall time of the bounds, without the box.
        history: the bounds over time.
        exponents: of the units of the proofs, see :mod:`unrelu.measurements.equilibration`: what layer l puts out is
            taken times 2^exponents[l]; none where the proofs are in the units of the network.
        proof, box_proof: what :meth:`verify` reads.
        bounds: lower and upper ones of the codes that all this is about, (k, 2); None for all codes.

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
    _digest: str = field(repr=False, default="")

    def __post_init__(self) -> None:
        for array in (self.z, self.box, self.bounds):
            if array is not None:
                array.setflags(write=False)

    def __repr__(self) -> str:
        return f"<Certificate: {self.status.name}, {self.norm} error from {self.lower:.6g} to {self.upper:.6g}>"

    def __str__(self) -> str:
        """What is proved, in words, in at most 15 lines."""
        return "\n".join(["Certificate", *named_lines(self._entries())])

    def _repr_html_(self) -> str:
        return html_table(["certificate", self.status.name], self._entries(), ["certificate", self.status.name])

    def _entries(self) -> list[tuple[str, str]]:
        """Names and texts of what is proved."""
        bound = f"no code has one below {self.lower:.6g}" if self.lower > 0 else "nothing was proved of other codes"
        relaxations = f"{count(self.nodes, 'relaxation')} in {duration(self.seconds)}"
        return [
            (self.status.name, self.message),
            ("error", f"{self.upper:.6g} ({self.norm}) at the code z; {bound} (gap {self.gap:.2g})"),
            ("box", self._box_in_words()),
            ("uniqueness", uniqueness(self.identifiable, self.rank, -1, len(self.z))),
            ("effort", relaxations),
            ("check", "c.verify(network, y), from the multipliers that are stored" if self.proof else ""),
        ]

    def _box_in_words(self) -> str:
        if self.box is None:
            return ""
        if (self.box[:, 0] > self.box[:, 1]).any():
            return f"empty: no code has errors up to {self.eps:.6g}"
        widths = self.box[:, 1] - self.box[:, 0]
        return (
            f"every code with errors up to {self.eps:.6g} is in c.box, intervals of width {widths.min():.3g} to "
            f"{widths.max():.3g}"
        )

    @property
    def gap(self) -> float:
        """(upper - lower) / max(upper, 1e-8 max|y|)."""
        return (self.upper - self.lower) / (max(self.upper, 1e-8 * self.scale) or 1.0)

    @property
    def message(self) -> str:
        """The status in a sentence, and for which codes it holds."""
        among = [] if self.bounds is None else ["within the bounds"]
        if not math.isinf(self.radius):
            among.append(f"with |z_i| <= {self.radius:g}")
        return f"{self.status.value} (among codes {' and '.join(among)})" if among else self.status.value

    @property
    def out_of_range(self) -> bool:
        """Whether it is proved that no code up to ``radius`` explains the observation within eps.

        Not said where ``z`` is beyond the radius: it may explain the observation itself.
        """
        if np.abs(self.z).max() > self.radius:
            return False
        return (self.norm == "linf" and self.lower > self.eps) or (
            self.box is not None and bool((self.box[:, 0] > self.box[:, 1]).any())
        )

    def verify(self, network: Generator, y: npt.ArrayLike, operator: Any = None) -> bool:
        """Whether every number here follows from what is stored, the network and the observation.

        Bounds and box are checked without a solver. Rank and identifiability of z are computed again, which takes small
        linear programs where neurons are at their kink.

        Args:
            network: G.
            y: the observation, as it was certified.
            operator: A, as it was certified.

        Raises:
            InputError: y or operator do not fit the network.
            UnsupportedModelError: nothing can be certified of this network.
        """
        return self.flaw(network, y, operator) is None

    def flaw(self, network: Generator, y: npt.ArrayLike, operator: Any = None) -> str | None:
        """The first thing that does not follow, in a sentence; None if all does. See :meth:`verify`."""
        if self._digest != digest(self):
            return "its numbers are not those that it was made with"
        if self.norm not in ("linf", "l1"):
            return f"norm {self.norm!r} is neither 'linf' nor 'l1'"
        values, measured = observed(network, y, operator)
        k = network.latent_dim
        if self.z.shape != (k,) or not np.isfinite(self.z).all():
            return f"z has shape {self.z.shape}, the network takes ({k},)"
        flaw = self._flaw_of_code_bounds(k)
        if flaw:
            return flaw
        bounds = None if self.bounds is None else Bounds(*self.bounds.T)
        chain = chain_of(network, measured, values, self.norm, bounds)
        if not math.isfinite(self.upper):
            return f"upper is {self.upper}"
        if not self.exponents:
            return self._flaw(chain, network, measured)
        scaled = chain.in_units(self.exponents)
        if scaled is None:
            return f"its units, {self.exponents}, are none of this network"
        return self.times_power(self.exponents[-1])._flaw(scaled, network, measured)

    def _flaw_of_code_bounds(self, k: int) -> str | None:
        if self.bounds is None:
            return None
        if self.bounds.shape != (k, 2) or not np.isfinite(self.bounds).all():
            return f"bounds have shape {self.bounds.shape}; finite ones of shape ({k}, 2) are needed"
        lower, upper = self.bounds.T
        if not (lower < upper).all():
            return "a lower bound is not below the upper one"
        return None if ((self.z >= lower) & (self.z <= upper)).all() else "z is outside of the bounds"

    def _flaw_of_effort(self) -> str | None:
        """What contradicts itself in nodes, seconds and history, which nobody can compute again."""
        least = 0 if self.proof is None else len(self.proof.parent)
        if not least <= self.nodes < math.inf or (self.proof is None and self.nodes):
            return f"nodes is {self.nodes}, the proof has {least}"
        if not 0 <= self.seconds < math.inf:
            return f"seconds is {self.seconds}"
        if self.eps < 0 or not self.lower >= 0:
            return f"a lower bound of {self.lower} and an eps of {self.eps}: neither can be below zero"
        moments = np.array([[m.seconds, m.nodes, m.lower, -m.upper] for m in self.history]).reshape(-1, 4)
        end = [self.seconds, self.nodes, self.lower, -self.upper]
        steps = np.diff(np.vstack([[0.0, 0.0, 0.0, -math.inf], moments, end]), axis=0)
        if not (steps >= 0).all():
            return "the history does not lead from nothing to these bounds, nodes and seconds, each better than before"
        return None

    def times_power(self, exponent: int) -> Certificate:
        """The same with all that is in units of y times 2^exponent."""
        names = ("lower", "upper", "eps", "scale")

        def times(x: float) -> float:
            return float(np.ldexp(x, exponent))

        with np.errstate(over="ignore", under="ignore"):
            numbers: dict[str, Any] = {name: times(getattr(self, name)) for name in names}
            history = tuple(replace(m, lower=times(m.lower), upper=times(m.upper)) for m in self.history)
        return replace(self, **numbers, history=history)

    def _flaw(self, chain: CertifiedChain, network: Generator, measured: Operator) -> str | None:
        """See :meth:`flaw`, for a chain in the units of the proof."""
        scale = float(np.abs(chain.y).max(initial=0.0))
        value, what = chain.objective(self.z), "pass the observation and operator= that were certified"
        off = _SAME * max(scale, self.upper) * (1 if self.norm == "linf" else len(chain.y))
        if not abs(value - self.upper) <= off or not abs(self.scale - scale) <= off:
            return f"F(z) is {value:.17g}, not {self.upper:.17g}; {what}"
        rank, determined = determination(network, self.z, measured, chain.bounds)
        if rank != self.rank:
            return f"the rank at z is {rank}, not {self.rank}"
        if determined != self.identifiable:
            return f"identifiable is {determined} at z of rank {rank}, not {self.identifiable}"
        return (
            self._flaw_of_bounds(chain)
            or self._flaw_of_box(chain)
            or self._flaw_of_radius(chain)
            or self._flaw_of_status(chain)
            or self._flaw_of_effort()
        )

    def _flaw_of_bounds(self, chain: CertifiedChain) -> str | None:
        if self.proof is None:
            return None if self.lower == 0 else "there is no proof of the lower bound"
        flaw = self.proof.flaw(chain)
        if flaw:
            return flaw
        lower = self.proof.lower(chain)
        if not self.lower <= lower:
            return f"the multipliers prove a lower bound of {lower:.17g}, not {self.lower:.17g}"
        return None

    def _flaw_of_radius(self, chain: CertifiedChain) -> str | None:
        """The radius is that of the proofs: no larger, and smaller by no more than rounding on another machine."""
        boxed = (self.box_proof, replace(chain, norm="linf"))
        radius = min((p.radius(on) for p, on in ((self.proof, chain), boxed) if p is not None), default=math.inf)
        if not radius * (1 - _SAME) <= self.radius <= radius:
            return f"the proofs are about codes up to {radius:g}, not {self.radius:g}"
        return None

    def _flaw_of_box(self, chain: CertifiedChain) -> str | None:
        if self.box is None or self.box_proof is None:
            both = self.box is None and self.box_proof is None
            return None if both else "there is no proof of the box, or no box of the proof"
        largest = replace(chain, norm="linf")
        flaw = self.box_proof.flaw(largest)
        if flaw:
            return flaw
        if not self.box_proof.level > self.eps:
            return f"the box is about errors below {self.box_proof.level:g}, not up to {self.eps:g}"
        box = self.box_proof.box(largest)
        if self.box.shape != box.shape or not ((self.box[:, 0] <= box[:, 0]) & (self.box[:, 1] >= box[:, 1])).all():
            return "the multipliers prove another box"
        return None

    def _flaw_of_status(self, chain: CertifiedChain) -> str | None:
        shown = {
            ProofStatus.OPTIMAL: self.gap <= GAP * (1 + 1e-9),
            ProofStatus.EXACT_FIT: chain.exact(self.z),
            ProofStatus.OUT_OF_RANGE: self.out_of_range,
        }
        return None if shown.get(self.status, True) else f"{self.status} does not follow from the bounds and the box"

    def save(self, path: str | Path) -> None:
        """Write to a .json or .npz file; all numbers exactly.

        Raises:
            InputError: another suffix, or no such folder.
            StorageError: the disk is full, or not ours to write to.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}")
        table = {**dict(_table(self)), "format": _FORMAT, "digest": self._digest}
        if path.suffix == ".npz":
            arrays: dict[str, Any] = {name: np.asarray(value) for name, value in table.items()}
            write_npz(path, arrays, _ADVICE)
        elif path.suffix == ".json":
            write_whole(path, [json.dumps({name: _plain(value) for name, value in table.items()})], _ADVICE)
        else:
            raise InputError(f"{path}: save a certificate as .json or .npz")

    @classmethod
    def load(cls, path: str | Path, max_bytes: int = MAX_BYTES) -> Certificate:
        """Read what :meth:`save` wrote. Nothing is unpickled; :meth:`verify` tells whether it is true.

        Args:
            path: the file.
            max_bytes: the most that it may take in memory, 4 GiB by default; of JSON, a 32nd of that is read.

        Raises:
            InputError: there is no such file, or it holds no certificate, or more than ``max_bytes``.
            OptionError: ``max_bytes`` is no number of bytes.
        """
        path = Path(path)
        table = _read_table(path, check_limit(max_bytes))
        if str(table.get("format")) != _FORMAT:
            raise InputError(f"{path}: no certificate of this version; its format is {table.get('format')!r}")
        try:
            return cls(**_fields(table))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"{path}: the certificate is damaged ({type(error).__name__}: {error})") from None


class Certificates(Sequence[Certificate]):
    """The certificates of a batch, one an observation.

    ``c[i]`` is one of them; a slice, a boolean mask or an array of indices gives those as Certificates.

    Attributes:
        lower, upper, gap: of each, (B,).
        status: of each a :class:`~unrelu.ProofStatus`, (B,), dtype object.

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
        counts = Counter(status.name for status in self.status)
        return f"<Certificates: {len(self)}, {', '.join(f'{n} {name}' for name, n in counts.most_common())}>"

    def __str__(self) -> str:
        """A table of the statuses, and the largest gaps, in at most 15 lines."""
        statuses, gaps = self._tables()
        return "\n".join([
            count(len(self), "certificate"), *text_table(*statuses), "  the largest gaps:", *text_table(*gaps)
        ])  # fmt: skip

    def _repr_html_(self) -> str:
        statuses, gaps = self._tables()
        return f"<div><p>{count(len(self), 'certificate')}</p>{html_table(*statuses)}{html_table(*gaps)}</div>"

    def _tables(self) -> tuple[_PlainTable, _PlainTable]:
        """Of the statuses, and of the certificates with the largest gaps: headings, rows, columns of text."""
        counts = Counter(self.status.tolist()).most_common()
        ends = [[s.name, count(n), share(n, len(self)), shortened(s.value, _MEANING)] for s, n in counts]
        rows = [
            [str(i), c.status.name, f"{c.lower:.6g}", f"{c.upper:.6g}", f"{c.gap:.2g}", str(c.rank)]
            for i in np.argsort(-self.gap, kind="stable")[:_LARGEST_GAPS]
            for c in [self._all[i]]
        ]
        return (
            (["status", "count", "share", "meaning"], ends, ["status", "meaning"]),
            (["index", "status", "lower", "upper", "gap", "rank"], rows, ["status"]),
        )

    def verify(self, network: Generator, y: npt.ArrayLike, operator: Any = None) -> bool:
        """Whether every certificate verifies, see :meth:`Certificate.verify`.

        Args:
            network: G.
            y: the observations (B, ...), as they were certified.
            operator: A, as it was certified: one for all, or a mask for each.

        Raises:
            InputError: y or operator do not fit the network, or there are not as many observations as certificates.
            UnsupportedModelError: nothing can be certified of this network.
        """
        values = numbers(y, "y")
        measured = read_operator(operator, network.output_shape, values.shape, network)
        if values.ndim == 0 or len(values) != len(self) or measured.count not in (0, len(self)):
            raise InputError(f"y has shape {values.shape}; pass the {len(self)} observations that were certified")
        one_by_one = (measured.take(np.array([i])) for i in range(len(self)))
        return all(c.verify(network, row, a) for c, row, a in zip(self, values, one_by_one, strict=True))


def observed(network: Generator, y: npt.ArrayLike, operator: Any) -> tuple[Array, Operator]:
    """One observation (m,) and its operator, as a user passes them.

    Raises:
        InputError: y or operator do not fit.
    """
    values = numbers(y, "y")
    measured = read_operator(operator, network.output_shape, values.shape, network)
    if values.shape not in (measured.shape, (measured.m,)):
        raise InputError(f"y has shape {values.shape}; a certificate is about one observation, {measured.shape}")
    if not np.isfinite(values[np.asarray(measured.seen(1)[0]).reshape(values.shape)]).all():
        raise InputError("y has NaN or infinite entries; remove or replace them, or hide them with a mask as operator=")
    return values.reshape(-1), measured


def determination(network: Generator, z: Array, operator: Operator, bounds: Bounds | None) -> tuple[int, bool]:
    """The rank of A J at a code (k,), and whether no other code near it within the bounds has the same A G(z)."""
    rank, dimension, _ = local_rank(network, z[None], operator, bounds=bounds)
    return int(rank[0]), bool(dimension[0] == 0)


def digest(certificate: Certificate) -> str:
    """SHA-256 of all that a certificate says, as hexadecimal digits."""
    found = hashlib.sha256()
    for name, value in sorted(_table(certificate)):
        found.update(name.encode())
        if isinstance(value, np.ndarray):
            kind = np.float64 if value.dtype.kind == "f" else np.int64
            found.update(str(value.shape).encode() + np.ascontiguousarray(value, dtype=kind).tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def _table(certificate: Certificate) -> Iterator[tuple[str, Any]]:
    """Everything under one name each: strings, numbers and arrays."""
    yield "status", certificate.status.name
    yield "norm", certificate.norm
    yield "identifiable", bool(certificate.identifiable)
    yield "rank", int(certificate.rank)
    yield "nodes", int(certificate.nodes)
    for name in _NUMBERS:
        yield name, float(getattr(certificate, name))
    yield "z", certificate.z
    if certificate.box is not None:
        yield "box", certificate.box
    if certificate.bounds is not None:
        yield "bounds", certificate.bounds
    if certificate.exponents:
        yield "exponents", np.array(certificate.exponents, dtype=np.int64)
    history = [[moment.seconds, moment.nodes, moment.lower, moment.upper] for moment in certificate.history]
    yield "history", np.array(history, dtype=np.float64).reshape(-1, 4)
    for name in _PROOFS:
        proof = getattr(certificate, name)
        for entry in fields(proof) if proof is not None else ():
            value = getattr(proof, entry.name)
            for part in fields(value) if isinstance(value, MultiplierRows) else ():
                yield f"{name}.{entry.name}.{part.name}", getattr(value, part.name)
            if not isinstance(value, MultiplierRows):
                yield f"{name}.{entry.name}", value


def _plain(value: Any) -> Any:
    """As JSON has it; infinities and NaN as strings, as JSON has none."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _fields(table: dict[str, Any]) -> dict[str, Any]:
    """The fields of a certificate, from its table."""
    values: dict[str, Any] = {name: float(table[name]) for name in _NUMBERS}
    values.update({name: _proof(table, name) for name in _PROOFS})
    rows = _array(table["history"], float).reshape(-1, 4)
    if len(rows) > _LONGEST_HISTORY:
        raise ValueError(f"the history has {len(rows):,} moments")
    return values | {
        "z": _array(table["z"], np.float64), "status": ProofStatus[str(table["status"])], "norm": str(table["norm"]),
        "box": _array(table["box"], np.float64).reshape(-1, 2) if "box" in table else None,
        "bounds": _array(table["bounds"], np.float64).reshape(-1, 2) if "bounds" in table else None,
        "rank": _whole(table["rank"]), "identifiable": _flag(table["identifiable"]), "nodes": _whole(table["nodes"]),
        "exponents": tuple(_array(table.get("exponents", []), np.int64).reshape(-1).tolist()),
        "history": tuple(BoundsAt(float(s), _whole(n), float(a), float(b)) for s, n, a, b in rows),
        "_digest": str(table["digest"]),
    }  # fmt: skip


def _read_table(path: Path, max_bytes: int) -> dict[str, Any]:
    if path.suffix == ".npz":
        # Those without dimensions as plain values.
        return {name: a if a.ndim else a.item() for name, a in read_npz(path, max_bytes).items()}
    table = read_json(path, max_bytes)
    if not isinstance(table, dict):
        raise InputError(f"{path}: holds no certificate")
    return table


def _proof(table: dict[str, Any], prefix: str) -> Proof | None:
    if f"{prefix}.level" not in table:
        return None
    values: dict[str, Any] = {}
    for entry in fields(Proof):
        name = f"{prefix}.{entry.name}"
        if name in table:
            number = entry.name in ("level", "reach")
            values[entry.name] = float(table[name]) if number else _array(table[name], np.int64).reshape(-1)
        else:
            values[entry.name] = _rows(table, name)
    return Proof(**values)


def _rows(table: dict[str, Any], name: str) -> MultiplierRows:
    return MultiplierRows(
        _array(table[f"{name}.pointer"], np.int64).reshape(-1),
        _array(table[f"{name}.index"], np.int64).reshape(-1),
        _array(table[f"{name}.value"], np.float64).reshape(-1),
        _whole(table[f"{name}.outputs"]),
        _whole(table[f"{name}.total"]),
    )


def _whole(value: Any) -> int:
    """A whole number; int() would make one of any number, so that a changed one could pass for the right one."""
    if isinstance(value, str | bool) or int(value) != value:
        raise ValueError(f"whole number expected, found {value!r}")
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false expected, found {value!r}")
    return value


def _array(value: Any, kind: Any) -> npt.NDArray[Any]:
    """An array of numbers exactly as written."""
    found = np.asarray(value)
    if kind is np.int64 and found.size and found.dtype.kind not in "iu":
        raise ValueError(f"whole numbers expected, found {found.dtype}")
    return found.astype(kind)
