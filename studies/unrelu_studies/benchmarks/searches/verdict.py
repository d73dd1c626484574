"""Whether the words of a verdict are true: p-value, success and confidence against observations whose truth is known.

Four questions, each with random streams of its own. Is an observation that the generator cannot have made ever called a
success? Are the p-values of observations that it made uniform? Is a success without stated noise ever a code that is
not the best? How often is a code of a certain confidence the best?
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2, kstest, ncx2

from unrelu import zoo
from unrelu._invert import invert
from unrelu.models.network import Network
from unrelu.result import Inversion
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.streams import stream
from unrelu.search.auto import Search
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.kit.binomial import at_least, at_most, counted, share
from unrelu_studies.kit.markdown_tables import aims, table
from unrelu_studies.kit.random_instances import gaussian_network, sizes_of
from unrelu_studies.kit.trained_generators import PLAIN_VAES, plain_vae
from unrelu_studies.kit.unit_runner import Unit

SIGMA = 0.1
OPERATORS = ("full", "half", "gaussian")
# Gaussian measurements at most; a small output gets half as many as it has entries.
MEASUREMENTS = 100
# Generators on which a search is easily wrong: plain VAEs, and random nets by their widths.
HARD = (*PLAIN_VAES, "3-8-10", "4-10-16", "8-3-10", "6-12-30", "10-30-60", "20-60-200")
# A code counts as the best if its objective is within this share of the best known.
WITHIN = 0.01
# Below this share of |y|^2 an objective without noise is zero: an exact fit has |r_j| <= 1e-8 max|y|.
ZERO = 1e-14
# Standard deviation of the noise of :func:`noisy`, as a share of the outputs' root mean square.
NOISE_SHARE = 0.4
# So many are drawn at least for that: fewer observations are the first ones.
DRAWN = 40
# The plain VAE whose own outputs are asked for beside those of the zoo.
VAE = PLAIN_VAES[0]
# Searches whose confidences are measured: when they stop, and whether the noise is stated.
SEARCHES = {
    "default, noise stated": (Search(), True),
    "default": (Search(), False),
    "confidence 0.9": (Search(confidence=0.9), False),
    "all rounds": (Search(confidence=1.0), False),
}
# The search whose codes are compared with: 12 chains of 256 perturbations each, of another seed.
_HEAVY = Search(confidence=1.0, rounds=11, learn=False)
# Observations that are inverted together.
BATCH = 200
# Of a picture of 28 x 28 pixels, less those that a fit of 20 coordinates takes.
DEGREES = 784 - 20


@dataclass(frozen=True)
class VerdictPlan:
    """How much is measured.

    Attributes:
        strangers: out-of-distribution observations of each kind and generator.
        own: own noisy outputs of each generator and operator.
        prior: own noisy outputs that are inverted with a prior.
        noiseless: observations of each generator and operator without noise.
        noisy: the same, with noise.
        compared: those of them that get descents from independent starts.
        descents: such descents of each.
        generators: those of the zoo that are searched for out-of-distribution observations and their own outputs.
        hard: generators of the observations without noise, and of those by which confidences are measured.
        searches: names of :data:`SEARCHES` whose confidences are.
    """

    strangers: int = 40
    own: int = 150
    prior: int = 60
    noiseless: int = 12
    noisy: int = 12
    compared: int = 3
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

    def take(self, rows: Index) -> Measurement:
        """That of some observations, which may come up several times."""
        return self if self.mask is None else Measurement(mask=self.mask[rows])


@dataclass(frozen=True, eq=False)
class OwnObservations:
    """Observations of a generator's own outputs: y = A G(z*) + sigma e, e ~ N(0, I)."""

    network: Network
    truth: Array
    measurement: Measurement
    y: Array
    sigma: float

    @classmethod
    def draw(cls, network: Network, kind: str, count: int, sigma: float | None, *keys: int | str) -> OwnObservations:
        """Codes from N(0, I); ``sigma`` None is :data:`NOISE_SHARE` of the outputs' root mean square."""
        drawn = max(count, DRAWN)
        truth = stream("verdict: codes", kind, *keys).standard_normal((drawn, network.latent_dim))
        x = network(truth).reshape(drawn, -1)
        level = NOISE_SHARE * float(np.sqrt((x * x).mean())) if sigma is None else sigma
        measurement = Measurement.draw(kind, drawn, x.shape[1], *keys)
        clean = measurement.values(x)
        e = stream("verdict: noise", kind, *keys).standard_normal(clean.shape)
        y = clean + level * (e if measurement.mask is None else e * measurement.mask)
        return cls(network, truth, measurement, y, level).take(np.arange(count))

    def take(self, rows: Index) -> OwnObservations:
        """Some observations, which may come up several times."""
        return OwnObservations(self.network, self.truth[rows], self.measurement.take(rows), self.y[rows], self.sigma)

    def invert(self, method: Any = "auto", **given: Any) -> Inversion:
        """By a method, under the operator."""
        return invert(self.network, self.y, method, operator=self.measurement.operator, **given)

    def objective(self, z: Array) -> Array:
        """|y - A G(z)|_2^2 of codes (B, k), (B,); infinite where there is no code."""
        r = self.y - self.measurement.values(self.network(z).reshape(len(z), -1))
        return np.asarray(np.nan_to_num((r * r).sum(axis=1), nan=np.inf))


# --- observations that the generator cannot have made -----------------------------------------------------------------


def strangers(name: str, kind: str, count: int, seed: int = 0) -> dict[str, Any]:
    """Observations of one kind for one generator, in its own range of pixels, with Gaussian noise that is stated.

    Args:
        name: the generator.
        kind: "pictures" of random pixels, "permuted" digits, or outputs of "other" generators.
        count: of observations.
        seed: of their streams.

    Returns:
        ``p_values``, (B,); ``successes``: how many were called a success; ``distances``: |x - G(z)|_2^2 / sigma^2 of
        the picture x without noise and the best code z known for it, (B,). Where it is below about 200, an output of
        the generator explains the noisy picture, and no p-value can say otherwise. ``expected``: what any test can
        reach at these distances.
    """
    network = zoo.load(name)
    x = _strange(kind, name, count, seed)
    y = x + SIGMA * stream("verdict: noise", kind, name, seed).standard_normal(x.shape)
    y = y.reshape(-1, *network.output_shape)
    result = invert(network, y, noise=f"gaussian:{SIGMA}")
    # Only outputs of other generators come near; a search without the noise finds how near.
    results = [result, invert(network, x.reshape(y.shape))] if kind == "other" else [result]
    apart = [((r.reconstruction.reshape(x.shape) - x) ** 2).sum(axis=1) / SIGMA**2 for r in results]
    distances = np.min(apart, axis=0)
    return {
        "generator": name, "kind": kind, "p_values": np.asarray(result.p_value).tolist(),
        "successes": int(result.success.sum()), "distances": distances.tolist(),
        "expected": {"success": 1 - expected(distances, 0.01), "rejected": expected(distances, 1e-3)},
    }  # fmt: skip


def expected(distances: Array, significance: float) -> float:
    r"""The mean probability of a p-value below ``significance`` at these distances.

    With :math:`\chi^2_d(\lambda)` for the residual of a picture at distance lambda and d degrees of freedom.
    """
    return float(ncx2.sf(chi2.isf(significance, DEGREES), DEGREES, np.asarray(distances)).mean())


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


def own_outputs(name: str, operator: str, count: int, seed: int = 0) -> dict[str, Any]:
    """Own outputs with Gaussian noise, not clipped, of a generator under an operator, inverted with the noise stated.

    Args:
        name: a generator of the zoo, or a plain VAE.
        operator: one of :data:`OPERATORS`, or "prior": "full" with ``prior`` = sigma^2.
        count: of observations.
        seed: of their streams.

    Returns:
        ``p_values``, (B,), ``successes``, ``statuses``, and ``distance``, the Kolmogorov-Smirnov distance of the
        p-values from the uniform distribution.
    """
    network = plain_vae(name) if name in PLAIN_VAES else zoo.load(name)
    prior, kind = (SIGMA**2, "full") if operator == "prior" else (0.0, operator)
    observed = OwnObservations.draw(network, kind, count, SIGMA, operator, name, seed)
    results = [
        observed.take(rows).invert(noise=f"gaussian:{SIGMA}", prior=prior)
        for rows in np.split(np.arange(count), range(BATCH, count, BATCH))
    ]
    statuses = [str(status) for result in results for status in result.verdict]
    p_values = [float(p) for result in results for p in result.p_value]
    return {
        "generator": name, "operator": operator, "p_values": p_values,
        "successes": sum(int(result.success.sum()) for result in results),
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "distance": float(kstest(p_values, "uniform").statistic),
    }  # fmt: skip


# --- without noise, and without a word of it --------------------------------------------------------------------------


def _hard_network(name: str, seed: int) -> Network:
    if name in PLAIN_VAES:
        return plain_vae(name)
    sizes = sizes_of(name)
    return gaussian_network(sizes, stream("verdict: weights", *sizes, seed))


def noiseless(name: str, operator: str, count: int, seed: int = 0) -> dict[str, Any]:
    """Outputs of a generator without noise, of which nothing is said; the best objective is 0, that of the truth.

    Returns:
        ``exact``: how many were fitted exactly; ``exact_by_heavy``: the same, by a search of more
        rounds; ``successes``: how many were called a success; ``false``: how many successes are more
        than 1% above the best known; ``confidences``: of those that were not fitted exactly.
    """
    observed = OwnObservations.draw(_hard_network(name, seed), operator, count, 0.0, name, "noiseless", seed)
    result, heavy = observed.invert(), observed.invert(_HEAVY, seed=1)
    zero = ZERO * (observed.y**2).sum(axis=1)
    exact, by_heavy = (observed.objective(r.z) <= zero for r in (result, heavy))
    return {
        "generator": name, "operator": operator, "count": count, "exact": int(exact.sum()),
        "exact_by_heavy": int(by_heavy.sum()), "successes": int(result.success.sum()),
        "false": int((result.success & ~exact).sum()), "confidences": np.asarray(result.confidence)[~exact].tolist(),
    }  # fmt: skip


# --- with noise: what a confidence is worth ---------------------------------------------------------------------------


def noisy(name: str, operator: str, plan: VerdictPlan, seed: int = 0) -> list[dict[str, Any]]:
    """Noisy outputs of a generator, for each of the searches: how sure it was, and whether its code is the best known.

    The best known objective is the least of the truth's, those of all searches made here, a heavy one of another seed
    among them, and for the first observations those of Levenberg-Marquardt descents from random starts.

    Returns:
        Of each search ``confidences``, (B,); ``best``: whether the objective is within 1% of the best known, (B,);
        ``beaten_by``: how many codes are more than 1% above those of a rival; ``successes``.
    """
    observed = OwnObservations.draw(_hard_network(name, seed), operator, plan.noisy, None, name, "noisy", seed)
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
    return [
        {
            "generator": name, "operator": operator, "search": search,
            "confidences": np.asarray(result.confidence).tolist(),
            "best": (rivals[search] <= (1 + WITHIN) * known).tolist(),
            "beaten_by": {rival: int((rivals[search] > (1 + WITHIN) * f).sum()) for rival, f in rivals.items()},
            "successes": int(result.success.sum()),
        }
        for search, result in results.items()
    ]  # fmt: skip


def _by_descents(observed: OwnObservations, plan: VerdictPlan, *keys: int | str) -> Array:
    """The least objective of descents from independent starts, (B,); infinite beyond the first observations."""
    rows = np.repeat(np.arange(min(plan.compared, plan.noisy)), plan.descents)
    some = observed.take(rows)
    starts = stream("verdict: descents", *keys).standard_normal((len(rows), observed.truth.shape[1]))
    found = some.objective(some.invert("lm", z0=starts).z).reshape(-1, plan.descents).min(axis=1)
    return np.concatenate([found, np.full(plan.noisy - len(found), np.inf)])


# --- the benchmark ----------------------------------------------------------------------------------------------------


def _plan(command: Command) -> VerdictPlan:
    return QUICK if command.quick else VerdictPlan()


def _units(command: Command) -> list[Unit]:
    """A generator, and a kind of observations or an operator, for each of the four questions."""
    plan = _plan(command)
    questions = {
        "strangers": (plan.generators, ("pictures", "permuted", "other")),
        "own": ((*plan.generators, VAE), (*OPERATORS, "prior")),
        "noiseless": (plan.hard, OPERATORS),
        "noisy": (plan.hard, ("full", "half")),
    }
    return [(what, name, of) for what, (names, kinds) in questions.items() for name in names for of in kinds]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    plan, seed, (what, name, of) = _plan(command), command.seed, map(str, unit)
    if what == "strangers":
        return {what: [strangers(name, of, plan.strangers, seed)]}
    if what == "own":
        return {what: [own_outputs(name, of, plan.prior if of == "prior" else plan.own, seed)]}
    if what == "noiseless":
        return {what: [noiseless(name, of, plan.noiseless, seed)]}
    return {what: noisy(name, of, plan, seed)}


def _collect(command: Command, parts: list[Any]) -> Results:
    return {"plan": asdict(_plan(command)), **gathered(parts, "strangers", "own", "noiseless", "noisy")}


def _aims(results: Results) -> str:
    """What was asked of observations that the generator cannot have made, of its own, and of those without noise."""
    strange, own, clean = results["strangers"], results["own"], results["noiseless"]
    p_values = [p for r in strange for p in r["p_values"]]
    success, count = sum(r["successes"] for r in strange), len(p_values)
    rejected = sum(p < 1e-3 for p in p_values)
    distance = {
        prior: kstest([p for r in own if (r["operator"] == "prior") is prior for p in r["p_values"]], "uniform")
        for prior in (False, True)
    }
    successes, made = (sum(of) for of in zip(*((r["successes"], len(r["p_values"])) for r in own), strict=True))
    false, total = sum(r["false"] for r in clean), sum(r["count"] for r in clean)
    return aims((
        ("others' observations are called a success in at most 1%", counted(success, count),
         at_most(success, count, 0.01)),
        ("they have p < 1e-3 in at least 99%", share(rejected, count), at_least(rejected, count, 0.99)),
        ("p-values of own outputs, together: Kolmogorov distance from uniform at most 0.05",
         f"{distance[False].statistic:.3f}", distance[False].statistic <= 0.05),
        ("the same with a prior (no aim)", f"{distance[True].statistic:.3f}", None),
        ("own outputs are a success in at least 98%", share(successes, made), at_least(successes, made, 0.98)),
        (f"no false success in {total:,} observations without noise", f"{false}", not false),
    ))  # fmt: skip


def _confidences(results: Results) -> str:
    """How good and how sure the searches are of noisy observations."""
    by_search: dict[str, list[Results]] = {}
    for r in results["noisy"]:
        by_search.setdefault(r["search"], []).append(r)
    rows = []
    for search, group in by_search.items():
        codes = [pair for r in group for pair in zip(r["confidences"], r["best"], strict=True)]
        sure = [best for confidence, best in codes if confidence is not None and confidence >= 0.99]
        best = share(sum(b for _, b in codes), len(codes))
        rows.append((search, len(codes), best, len(sure), share(len(sure) - sum(sure), len(sure))))
    return table(("search", "observations", "best codes", "confidence >= 0.99", "of these not the best"), rows)


BENCHMARK = Benchmark(
    units=_units, measure=_measure, blocks={"verdict": _aims, "verdict confidence": _confidences}, collect=_collect
)
