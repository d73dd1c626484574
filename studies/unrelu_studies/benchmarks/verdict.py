"""Whether the words of a verdict are true: p-value, success and confidence against observations whose truth is known.

Four questions, each with random streams of its own. Is an observation that the generator cannot have made ever called a
success? Are the p-values of observations that it made uniform? Is a success without stated noise ever a code that is
not the best? How often is a code of a certain confidence the best?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, kstest, ncx2

from unrelu import zoo
from unrelu._invert import invert
from unrelu.loaders import from_arrays
from unrelu.models.network import Network
from unrelu.result import Inversion
from unrelu.runtime.streams import stream
from unrelu.search.joint_search import Search
from unrelu_studies.benchmarks import plain_vae

Array = npt.NDArray[np.float64]

SIGMA = 0.1
OPERATORS = ("full", "half", "gaussian")
# Gaussian measurements at most; a small output gets half as many as it has entries.
MEASUREMENTS = 100
_WIDTHS = ((3, 8, 10), (4, 10, 16), (8, 3, 10), (6, 12, 30), (10, 30, 60), (20, 60, 200))
# Generators on which a search is easily wrong: plain VAEs, and random nets by their widths.
HARD = (*plain_vae.NAMES, *("-".join(map(str, widths)) for widths in _WIDTHS))
# A code counts as the best if its objective is within this share of the best known.
WITHIN = 0.01
# Below this share of |y|^2 an objective without noise is zero: an exact fit has |r_j| <= 1e-8 max|y|.
ZERO = 1e-14
# Standard deviation of the noise of :func:`measure_noisy`, as a share of the outputs' root mean square.
NOISE_SHARE = 0.4
# The plain VAE whose own outputs are asked for beside those of the zoo.
VAE = plain_vae.NAMES[0]
# Searches whose confidences are measured: with how much agreement they stop, and whether the noise is stated.
SEARCHES = {
    "default, noise stated": (Search(), True),
    "default": (Search(), False),
    "consensus 10": (Search(consensus=10, rounds=60), False),
    "consensus 25": (Search(consensus=25, rounds=60), False),
}
_HEAVY = SEARCHES["consensus 25"][0]
# Observations that are inverted together.
BATCH = 200
BINS = (0.0, 0.5, 0.8, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class VerdictPlan:
    """How much is measured.

    Attributes:
        strangers: observations of each kind and generator.
        own: own noisy outputs of each generator and operator.
        prior: own noisy outputs that are inverted with a prior.
        noiseless: observations of each generator and operator without noise.
        noisy: the same, with noise.
        compared: those of them that get descents from independent starts.
        descents: such descents of each.
        generators: those of the zoo that are asked for strangers and for their own outputs.
        hard: generators of the observations without noise, and of those by which confidences are measured.
        searches: names of :data:`SEARCHES` whose confidences are.
    """

    strangers: int = 200
    own: int = 1000
    prior: int = 200
    noiseless: int = 34
    noisy: int = 40
    compared: int = 8
    descents: int = 50
    generators: tuple[str, ...] = zoo.names()
    hard: tuple[str, ...] = HARD
    searches: tuple[str, ...] = tuple(SEARCHES)


QUICK = VerdictPlan(strangers=20, own=60, prior=40, noiseless=4, noisy=10, compared=3, descents=10)


@dataclass(frozen=True, eq=False)
class Measurement:
    """A of some observations: everything, a mask for each, or a matrix for all.

    Attributes:
        mask: (B, n) of 0 and 1, or None.
        matrix: (m, n), or None.
    """

    mask: Array | None = None
    matrix: Array | None = None

    @classmethod
    def draw(cls, kind: str, count: int, n: int, *keys: int | str) -> Measurement:
        """One of :data:`OPERATORS`: every entry, about half of the entries, or Gaussian combinations of them."""
        rng = stream("verdict: operators", kind, *keys)
        if kind == "half":
            return cls(mask=(rng.random((count, n)) < 0.5).astype(np.float64))
        if kind == "gaussian":
            m = min(MEASUREMENTS, n // 2)
            return cls(matrix=rng.standard_normal((m, n)) / m**0.5)
        return cls()

    @property
    def operator(self) -> Any:
        """What :func:`unrelu.invert` takes: masks as booleans, which no matrix is taken for."""
        return self.matrix if self.mask is None else self.mask.astype(bool)

    def values(self, x: Array) -> Array:
        """A x, (B, m), of outputs (B, n)."""
        return x @ self.matrix.T if self.matrix is not None else x if self.mask is None else x * self.mask

    def take(self, rows: npt.NDArray[np.intp]) -> Measurement:
        """That of some observations, which may come up several times."""
        return self if self.mask is None else Measurement(mask=self.mask[rows])


@dataclass(frozen=True, eq=False)
class _Observed:
    """Observations of a generator's own outputs: y = A G(z*) + sigma e, e ~ N(0, I)."""

    network: Network
    truth: Array
    measurement: Measurement
    y: Array
    sigma: float

    @classmethod
    def draw(cls, network: Network, kind: str, count: int, sigma: float | None, *keys: int | str) -> _Observed:
        """Codes from N(0, I); ``sigma`` None is :data:`NOISE_SHARE` of the outputs' root mean square."""
        truth = stream("verdict: codes", kind, *keys).standard_normal((count, network.latent_dim))
        x = network(truth).reshape(count, -1)
        level = NOISE_SHARE * float(np.sqrt((x * x).mean())) if sigma is None else sigma
        measurement = Measurement.draw(kind, count, x.shape[1], *keys)
        clean = measurement.values(x)
        e = stream("verdict: noise", kind, *keys).standard_normal(clean.shape)
        y = clean + level * (e if measurement.mask is None else e * measurement.mask)
        return cls(network, truth, measurement, y, level)

    def take(self, rows: npt.NDArray[np.intp]) -> _Observed:
        """Some observations, which may come up several times."""
        return _Observed(self.network, self.truth[rows], self.measurement.take(rows), self.y[rows], self.sigma)

    def invert(self, method: Any = "auto", **given: Any) -> Inversion:
        return invert(self.network, self.y, method, operator=self.measurement.operator, **given)

    def objective(self, z: Array) -> Array:
        """|y - A G(z)|_2^2 of codes (B, k), (B,); infinite where there is no code."""
        r = self.y - self.measurement.values(self.network(z).reshape(len(z), -1))
        return np.asarray(np.nan_to_num((r * r).sum(axis=1), nan=np.inf))


def random_network(widths: tuple[int, ...], *keys: int | str) -> Network:
    """The paper's random nets: ReLU, weights N(0, 1 / n_i), no biases."""
    rng = stream("verdict: weights", *widths, *keys)
    return from_arrays([rng.standard_normal((b, a)) / b**0.5 for a, b in pairwise(widths)], activation="relu")


# --- observations that the generator cannot have made -----------------------------------------------------------------


@dataclass(frozen=True)
class Strangers:
    """Observations of one kind for one generator, with Gaussian noise that is stated.

    Attributes:
        generator, kind: what was asked, and what was observed: "pictures" of random pixels, "permuted" digits, or
            outputs of "other" generators.
        p_values: (B,).
        successes: how many were called a success.
        distances: |x - G(z)|_2^2 / sigma^2 of the picture x without noise and the best code z known for it, (B,). Where
            it is below about 200, an output of the generator explains the noisy picture, and no p-value can say
            otherwise.
    """

    generator: str
    kind: str
    p_values: tuple[float, ...]
    successes: int
    distances: tuple[float, ...]

    @property
    def success(self) -> float:
        """Share of successes."""
        return self.successes / len(self.p_values)

    @property
    def rejected(self) -> float:
        """Share with a p-value below 1e-3."""
        return float(np.mean(np.array(self.p_values) < 1e-3))

    def expected(self, significance: float, degrees: int) -> float:
        r"""The mean probability of a p-value below ``significance`` at these distances.

        With :math:`\chi^2_d(\lambda)` for the residual of a picture at distance lambda and d degrees of freedom.
        """
        cutoff = chi2.isf(significance, degrees)
        return float(ncx2.sf(cutoff, degrees, np.array(self.distances)).mean())


def measure_strangers(plan: VerdictPlan, seed: int = 0) -> Iterator[Strangers]:
    """Random pictures, permuted digits and outputs of other generators, in the generator's own range of pixels."""
    for name in plan.generators:
        network = zoo.load(name)
        for kind in ("pictures", "permuted", "other"):
            x = _strange(kind, name, plan.strangers, seed)
            y = x + SIGMA * stream("verdict: noise", kind, name, seed).standard_normal(x.shape)
            y = y.reshape(-1, *network.output_shape)
            result = invert(network, y, noise=f"gaussian:{SIGMA}")
            # Only outputs of other generators come near; a search without the noise finds how near.
            results = [result, invert(network, x.reshape(y.shape))] if kind == "other" else [result]
            apart = [((r.reconstruction.reshape(x.shape) - x) ** 2).sum(axis=1) / SIGMA**2 for r in results]
            distances = tuple(map(float, np.min(apart, axis=0)))
            yield Strangers(name, kind, tuple(map(float, result.p_value)), int(result.success.sum()), distances)


def _strange(kind: str, name: str, count: int, seed: int) -> Array:
    """Observations without noise, (count, n), for the generator ``name``."""
    digits = zoo.observations(name).reshape(100, -1)
    low, high = _range(name)
    rng = stream("verdict: strangers", kind, name, seed)
    if kind == "pictures":
        return rng.uniform(low, high, (count, digits.shape[1]))
    if kind == "permuted":
        return rng.permuted(digits[np.arange(count) % len(digits)], axis=1)
    others = [other for other in zoo.names() if other != name]
    drawn = []
    for i in range(count):
        other = others[i % len(others)]
        network = zoo.load(other)
        start, end = _range(other)
        drawn.append((network(rng.standard_normal(network.latent_dim)).ravel() - start) / (end - start))
    return low + (high - low) * np.stack(drawn)


def _range(name: str) -> tuple[float, float]:
    """Pixel values of background and ink."""
    digits = zoo.observations(name)
    return float(digits.min()), float(digits.max())


# --- observations that it made ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnOutputs:
    """Noisy outputs of a generator, inverted with the noise stated.

    Attributes:
        generator, operator: of the observations; the operator "prior" is "full" with ``prior`` = sigma^2.
        p_values: (B,).
        successes: how many were called a success.
        statuses: how many there are of each.
    """

    generator: str
    operator: str
    p_values: tuple[float, ...]
    successes: int
    statuses: dict[str, int]

    @property
    def distance(self) -> float:
        """Kolmogorov-Smirnov distance of the p-values from the uniform distribution."""
        return float(kstest(self.p_values, "uniform").statistic)

    @property
    def success(self) -> float:
        """Share of successes."""
        return self.successes / len(self.p_values)


def measure_own_outputs(plan: VerdictPlan, seed: int = 0) -> Iterator[OwnOutputs]:
    """Own outputs with Gaussian noise, not clipped, of each generator under each operator, and with a prior.

    The generators are those of the zoo, and a plain VAE.
    """
    networks = {name: zoo.load(name) for name in plan.generators} | {VAE: plain_vae.load(VAE)}
    for name, network in networks.items():
        for operator in (*OPERATORS, "prior"):
            prior, count = (SIGMA**2, plan.prior) if operator == "prior" else (0.0, plan.own)
            kind = "full" if operator == "prior" else operator
            observed = _Observed.draw(network, kind, count, SIGMA, operator, name, seed)
            results = [
                observed.take(rows).invert(noise=f"gaussian:{SIGMA}", prior=prior)
                for rows in np.split(np.arange(count), range(BATCH, count, BATCH))
            ]
            statuses = [str(status) for result in results for status in result.status]
            yield OwnOutputs(
                name,
                operator,
                tuple(float(p) for result in results for p in result.p_value),
                sum(int(result.success.sum()) for result in results),
                {status: statuses.count(status) for status in sorted(set(statuses))},
            )


# --- without noise, and without a word of it --------------------------------------------------------------------------


@dataclass(frozen=True)
class Noiseless:
    """Outputs of a generator without noise, of which nothing is said; the best objective is 0, that of the truth.

    Attributes:
        generator, operator: of the observations.
        count: of observations.
        exact: how many were fitted exactly.
        exact_by_heavy: the same, by a search that stops only after 25 agreements or 60 rounds.
        successes: how many were called a success.
        false: how many successes are more than 1% above the best known.
        confidences: of those that were not fitted exactly.
    """

    generator: str
    operator: str
    count: int
    exact: int
    exact_by_heavy: int
    successes: int
    false: int
    confidences: tuple[float, ...]


def measure_noiseless(plan: VerdictPlan, seed: int = 0) -> Iterator[Noiseless]:
    """Plain VAEs and random nets, seen whole, by halves and through Gaussian combinations."""
    for name, network in _hard_networks(plan, seed):
        for operator in OPERATORS:
            observed = _Observed.draw(network, operator, plan.noiseless, 0.0, name, "noiseless", seed)
            result, heavy = observed.invert(), observed.invert(_HEAVY, seed=1)
            zero = ZERO * (observed.y**2).sum(axis=1)
            exact, by_heavy = (observed.objective(r.z) <= zero for r in (result, heavy))
            yield Noiseless(
                name,
                operator,
                plan.noiseless,
                int(exact.sum()),
                int(by_heavy.sum()),
                int(result.success.sum()),
                int((result.success & ~exact).sum()),
                tuple(map(float, result.confidence[~exact])),
            )


def _hard_networks(plan: VerdictPlan, seed: int) -> Iterator[tuple[str, Network]]:
    for name in plan.hard:
        vae = name in plain_vae.NAMES
        yield name, plain_vae.load(name) if vae else random_network(tuple(map(int, name.split("-"))), seed)


# --- with noise: what a confidence is worth ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Noisy:
    """Noisy outputs of a generator: how sure the search was, and whether its code is the best known.

    Attributes:
        generator, operator: of the observations.
        search: a name of :data:`SEARCHES`.
        confidences: (B,).
        best: whether the objective is within 1% of the best known, (B,).
        beaten_by: how many codes are more than 1% above those of a rival: the truth, the other searches, a heavy one
            of another seed, and independent descents (these of the first observations only).
        successes: how many were called a success.
    """

    generator: str
    operator: str
    search: str
    confidences: tuple[float, ...]
    best: tuple[bool, ...]
    beaten_by: dict[str, int]
    successes: int


def measure_noisy(plan: VerdictPlan, seed: int = 0) -> Iterator[Noisy]:
    """Plain VAEs and random nets, seen whole and by halves, noise of :data:`NOISE_SHARE`, for each of the searches.

    The best known objective is the least of the truth's, those of all searches made here, a heavy one of another seed
    among them, and for the first observations those of Levenberg-Marquardt descents from random starts.
    """
    for name, network in _hard_networks(plan, seed):
        for operator in ("full", "half"):
            observed = _Observed.draw(network, operator, plan.noisy, None, name, "noisy", seed)
            noise = f"gaussian:{observed.sigma}"
            results = {
                search: observed.invert(method, noise=noise if stated else None)
                for search, (method, stated) in ((search, SEARCHES[search]) for search in plan.searches)
            }
            rivals = {
                "truth": observed.objective(observed.truth),
                "heavy": observed.objective(observed.invert(_HEAVY, seed=1).z),
                "descents": _by_descents(observed, plan, name, operator, seed),
                **{search: observed.objective(result.z) for search, result in results.items()},
            }
            known = np.min(list(rivals.values()), axis=0)
            for search, result in results.items():
                found = rivals[search]
                yield Noisy(
                    name,
                    operator,
                    search,
                    tuple(map(float, result.confidence)),
                    tuple(map(bool, found <= (1 + WITHIN) * known)),
                    {rival: int((found > (1 + WITHIN) * f).sum()) for rival, f in rivals.items()},
                    int(result.success.sum()),
                )


def _by_descents(observed: _Observed, plan: VerdictPlan, *keys: int | str) -> Array:
    """The least objective of descents from independent starts, (B,); infinite beyond the first observations."""
    rows = np.repeat(np.arange(min(plan.compared, plan.noisy)), plan.descents)
    some = observed.take(rows)
    starts = stream("verdict: descents", *keys).standard_normal((len(rows), observed.truth.shape[1]))
    found = some.objective(some.invert("lm", z0=starts).z).reshape(-1, plan.descents).min(axis=1)
    return np.concatenate([found, np.full(plan.noisy - len(found), np.inf)])


def reliability(cells: Sequence[Noisy], search: str) -> list[tuple[float, float, int, int]]:
    """Of a search, for each bin of :data:`BINS`: its ends, its codes, and how many of these are the best known.

    The bins are [a, b), the last one [a, b]. Codes without a confidence are in none.
    """
    chosen = [cell for cell in cells if cell.search == search]
    confidence = np.array([c for cell in chosen for c in cell.confidences])
    best = np.array([b for cell in chosen for b in cell.best])
    which = np.where(
        np.isnan(confidence), -1, np.minimum(np.searchsorted(BINS, confidence, side="right") - 1, len(BINS) - 2)
    )
    return [
        (low, high, int((which == i).sum()), int(best[which == i].sum()))
        for i, (low, high) in enumerate(pairwise(BINS))
    ]


# Of a picture of 28 x 28 pixels, less those that a fit of 20 coordinates takes.
DEGREES = 784 - 20


def measure(quick: bool, seed: int) -> dict[str, Any]:
    """All four questions; ``reliability`` has, of each search, (from, to, codes, best ones) of each confidence."""
    plan = QUICK if quick else VerdictPlan()
    noisy = list(measure_noisy(plan, seed))
    return {
        "plan": asdict(plan),
        "strangers": [
            {
                **asdict(row),
                "expected": {"success": 1 - row.expected(0.01, DEGREES), "rejected": row.expected(1e-3, DEGREES)},
            }
            for row in measure_strangers(plan, seed)
        ],
        "own": [{**asdict(row), "distance": row.distance} for row in measure_own_outputs(plan, seed)],
        "noiseless": [asdict(row) for row in measure_noiseless(plan, seed)],
        "noisy": [asdict(row) for row in noisy],
        "reliability": {search: reliability(noisy, search) for search in plan.searches},
    }
