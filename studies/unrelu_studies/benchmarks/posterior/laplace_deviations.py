"""How the standard deviations of a Laplace approximation compare with the posterior's as the noise falls."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import unrelu
from unrelu_studies.benchmarks.benchmark import Command, Results
from unrelu_studies.benchmarks.posterior.posterior_cells import masked_decoder
from unrelu_studies.kit.markdown_tables import aims, table
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.timing import one_thread
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

OBSERVATIONS, _QUICK = 20, 1
SHARES, SIGMAS = (1.0, 0.5), (0.3, 0.1, 0.03, 0.01)
# What is aimed at where the noise is smallest.
WITHIN = 0.05
_NAME = "posterior deviations"


def units(command: Command) -> list[Unit]:
    """A share of the pixels and a noise each."""
    return [("laplace", share, sigma) for share in SHARES for sigma in SIGMAS]


def measure(command: Command, share: float, sigma: float) -> Results:
    """Ratios of standard deviations, (B k,), of observations whose chains mixed."""
    about = masked_decoder(share, sigma)
    count = command.count(OBSERVATIONS, _QUICK)
    y = about.simulated(count, command.seed, _NAME).y
    with one_thread():
        p = about.sampled(y, seed=draw_seed(random(_NAME, command.seed, share, sigma)))
        r = unrelu.invert(
            about.network, y, noise=about.noise, operator=about.operator, prior=unrelu.Normal(),
            seed=draw_seed(random(_NAME, command.seed, "invert", share, sigma)),
        )  # fmt: skip
        local = np.reshape(r.laplace().std, (count, -1))
    mixed = [one.status.name == "MIXED" for one in p]
    deviation = np.array([np.ravel(one.std) for one, good in zip(p, mixed, strict=True) if good])
    ratio = local[mixed] / deviation if any(mixed) else np.zeros((0, local.shape[1]))
    return {"laplace": [{"share": share, "sigma": sigma, "observations": count, "ratios": ratio.ravel().tolist()}]}


def laplace_table(results: Results) -> str:
    """Quantiles of the ratio, over coordinates and observations."""
    rows = []
    for r in results["laplace"]:
        ratios = np.array(r["ratios"])
        if not len(ratios):
            rows.append((f"{r['share']:.0%}", f"{r['sigma']:g}", r["observations"], *["-"] * 5))
            continue
        low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
        rows.append((
            f"{r['share']:.0%}", f"{r['sigma']:g}", r["observations"], f"{middle:.3f}", f"{low:.3f}", f"{high:.3f}",
            f"{ratios.min():.3f} to {ratios.max():.3f}", f"{_near(r):.0%}",
        ))  # fmt: skip
    head = (
        "pixels", "noise", "observations", "`laplace` by the posterior, median", "5%", "95%", "least and largest",
        "within 5%",
    )  # fmt: skip
    return table(head, rows)


def laplace_aims(results: Results) -> str:
    """What the issue asks of small noise."""
    least = [r for r in results["laplace"] if r["sigma"] == SIGMAS[-1] and r["ratios"]]
    aim = f"within 5% of the posterior's deviations at noise {SIGMAS[-1]}, median"
    if not least:
        return aims([(aim, "nothing mixed", None)])
    off = max(abs(float(np.median(r["ratios"])) - 1) for r in least)
    near = min(_near(r) for r in least)
    return aims([(aim, f"{off:.1%} off at most; {near:.0%} of the coordinates are within", off <= WITHIN)])


def _near(row: Results) -> float:
    return float((np.abs(np.array(row["ratios"]) - 1) <= WITHIN).mean())
