"""Data and problems of others: regressions of NIST, draws of sbibm, Planck, stars, a kilonova, and inverse design."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.others.data_of_others import data_folder
from unrelu_studies.benchmarks.others.inverse_design import PROPOSALS, TASKS, measure_design
from unrelu_studies.benchmarks.others.kilonova import WITHIN, measure_kilonova, read_photometry
from unrelu_studies.benchmarks.others.lotka_volterra import OBSERVATIONS, measure_posterior, read_observation
from unrelu_studies.benchmarks.others.planck_fit import measure_planck, read_planck
from unrelu_studies.benchmarks.others.reference_regressions import MODELS, measure_regression, read_regression
from unrelu_studies.benchmarks.others.stellar_spectrum import STARS, BinspecSpectra, measure_spectrum
from unrelu_studies.kit.markdown_tables import aims, short, table
from unrelu_studies.kit.published_emulators import installed, not_measured
from unrelu_studies.kit.unit_runner import Unit

# The parts, with the goals of each: least digits; most C2ST; standard deviations from published parameters.
PARTS = ("regression", "posterior", "planck", "spectrum", "kilonova", "design")
DIGITS, C2ST, DEVIATIONS = 6.0, 0.52, 1.0
# Of fits of real data: the least confidence, and the share of the seeds whose likelihood is as good as the best.
SURE, SEEDS_RIGHT = 0.9, 0.9
# Parts whose data are larger, with their folders: without a part named, those that are there are measured.
FOLDERS = {"spectrum": "binspec", "kilonova": "fiesta"}
# Of the evaluations of the neural adjoint.
SHARE = 0.1
QUICK_REGRESSIONS = ("Misra1a", "BoxBOD")
ADJOINT, OURS = "neural adjoint", "`invert`, corrected"


def _present(command: Command) -> tuple[str, ...]:
    folder = data_folder(command.data)
    return tuple(part for part in PARTS if part not in FOLDERS or (folder / FOLDERS[part]).is_dir())


def _units(command: Command) -> list[Unit]:
    """The units of the parts that were asked for; their files are looked at before anything is measured."""
    parts, quick = command.parts or _present(command), command.quick
    regressions = QUICK_REGRESSIONS if quick else tuple(MODELS)
    names: dict[str, Iterable[Any]] = {
        "regression": regressions,
        "posterior": OBSERVATIONS[: 1 if quick else None],
        "planck": ("TT, TE, EE",) if installed("cosmopower_jax") else (),
        "spectrum": STARS[: 1 if quick else None],
        "kilonova": ("AT2017gfo",),
        "design": TASKS,
    }
    if set(parts) != {"design"}:
        data_folder(command.data)
    if "regression" in parts:
        for name in regressions:
            read_regression(command.data, name)
    if "posterior" in parts:
        for number in names["posterior"]:
            read_observation(command.data, number)
    if "planck" in parts:
        read_planck(command.data)
    if "spectrum" in parts:
        BinspecSpectra(command.data)
    if "kilonova" in parts:
        read_photometry(command.data)
    return [(part, name) for part in PARTS if part in parts for name in names[part]]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    part, name = unit
    if part == "regression":
        return measure_regression(command.data, str(name), command.seed)
    if part == "posterior":
        return measure_posterior(command.data, int(name), command.seed, command.quick)
    if part == "planck":
        return measure_planck(command.data, command.seed, command.quick)
    if part == "spectrum":
        return measure_spectrum(command.data, str(name), command.seed, command.quick)
    if part == "kilonova":
        return measure_kilonova(command.data, command.seed, command.quick)
    return measure_design(str(name), command.seed, command.quick)


# --- tables -----------------------------------------------------------------------------------------------------------


def _of(results: Results, part: str) -> list[dict[str, Any]]:
    return [row for row in results["rows"] if row["part"] == part]


def _regressions(results: Results) -> str:
    return table(
        ("problem", "parameters", "observations", "digits", "2-point", "3-point", "sum of squares / certified - 1",
         "confidence", "s"),
        (
            (r["problem"], r["parameters"], r["observations"], f"{r['digits']:.1f}", f"{r['digits, 2-point']:.1f}",
             f"{r['digits, 3-point']:.1f}", f"{r['of certified'] - 1:.0e}", f"{r['confidence']:.2f}",
             short(r["seconds"]))
            for r in _of(results, "regression")
        ),
    )  # fmt: skip


def _posteriors(results: Results) -> str:
    return table(
        ("observation", "draws", "status", "C2ST", "means off by", "standard deviations / reference's", "s"),
        (
            (r["observation"], f"{r['draws']:,}", r["status"], f"{r['c2st']:.3f}", f"{max(r['means']):.3f}",
             f"{min(r['deviations']):.2f} to {max(r['deviations']):.2f}", short(r["seconds"]))
            for r in _of(results, "posterior")
        ),
    )  # fmt: skip


def _planck(results: Results) -> str:
    if not (rows := _of(results, "planck")):
        return not_measured(["cosmopower_jax"])
    r = rows[0]
    parameters = table(
        ("parameter", "`invert`", "Laplace deviation", "published", "deviation", "off by deviations"),
        (
            (f"`{name}`", f"{value:.5g}", f"{width:.2g}", mean, width_there, f"{(value - mean) / width_there:+.2f}")
            for name, (value, width, mean, width_there) in r["parameters"].items()
        ),
    )
    said = f"Chi-square {r['chi-square']:.1f} of {r['bins']} bins, p = {r['p']:.2f}, confidence {r['confidence']:.3f}"
    profile, posterior, mocks = r["profile"], r["posterior"], r["mocks"]
    (low, high), (mean, deviation) = profile["interval"], posterior["h"]
    return " ".join([
        f"{parameters}\n\n{said}, status {r['status']}, {short(r['seconds'])} s of the processor.",
        f"Profile of h: {profile['values']} values, {profile['sure']} of them sure, within {profile['off by']:.1e} of",
        f"fits of their own in chi-square, interval {low:.5g} to {high:.5g}, {short(profile['seconds'])} s.",
        f"Posterior: {posterior['status']}, h = {mean:.4f} ± {deviation:.4f}, {short(posterior['seconds'])} s.",
        f"{mocks['spectra']} mock spectra: {mocks['at most the truth']:.0%} at or below the truth's chi-square,",
        f"{mocks['sure']:.0%} sure, {mocks['sure and wrong']} of these wrong, p-values uniform with p =",
        f"{mocks['p uniform']:.2f}, {short(mocks['seconds'])} s each.",
    ])  # fmt: skip


def _spectra(results: Results) -> str:
    if not _of(results, "spectrum"):
        return f"Not measured: the folder `{FOLDERS['spectrum']}` was not there."
    return table(
        ("model", "parameters", "chi-square", "best of trf", "starts of trf that reach it", "confidence", "s, first",
         "s, later", "s, ten starts of trf"),
        (
            (r["stars"], r["parameters"], f"{r['chi-square']:,.1f}", f"{r['trf best']:,.1f}",
             f"{r['trf reached']} of {r['starts']}", f"{r['confidence']:.2f}", short(r["first"]), short(r["later"]),
             short(r["trf ten"]))
            for r in _of(results, "spectrum")
        ),
    )  # fmt: skip


def _kilonova(results: Results) -> str:
    if not (rows := _of(results, "kilonova")):
        return f"Not measured: the folder `{FOLDERS['kilonova']}` was not there."
    r = rows[0]
    (level, error), (mean, width), posterior = r["level"], r["posterior"]["level"], r["posterior"]
    seconds = short(float(np.median(r["seconds"])))
    return " ".join([
        f"{r['points']} magnitudes: -2 log L {min(r['deviances']):.2f} to {max(r['deviances']):.2f} in",
        f"{len(r['deviances'])} seeds, the best of {r['starts']} starts of trf {r['trf best']:.2f}, which",
        f"{r['trf within'] * r['starts']:.0f} of them reach within 1%. Fitted error {level:.3f} ± {error:.3f} mag,",
        f"p = {r['p']:.1g}, confidence {r['confidence']:.2f}, status {r['status']}, {seconds} s (ten starts of trf",
        f"{short(r['trf ten'])}). Posterior: {posterior['status']}, error {mean:.3f} ± {width:.3f} mag, its means off",
        f"emcee's by at most {posterior['off by']:.2f} deviations, {short(posterior['seconds'])} s.",
    ])  # fmt: skip


def _designs(results: Results) -> str:
    return table(
        ("task", "error of the surrogate", "method", *(f"T = {count}" for count in PROPOSALS), "passes", "s a target"),
        (
            (r["task"], f"{r['held-out error']:.1e}", method,
             *(f"{error:.1e}" for error in found["errors"]), *["-"] * (len(PROPOSALS) - len(found["errors"])),
             f"{found['evaluations']:,.0f}", short(found["seconds"]) if found["seconds"] else "-")
            for r in _of(results, "design") for method, found in r["methods"].items()
        ),
    )  # fmt: skip


def _aims(results: Results) -> str:
    rows: list[tuple[str, str, bool | None]] = []
    if digits := [r["digits"] for r in _of(results, "regression")]:
        reached = sum(d >= DIGITS for d in digits)
        said = f"{reached} of {len(digits)}, {min(digits):.1f} digits at least"
        rows.append((f"NIST: at least {DIGITS:.0f} digits on all", said, reached == len(digits)))
    if found := [r["c2st"] for r in _of(results, "posterior")]:
        said = f"{max(found):.3f} at most, {len(found)} of {len(OBSERVATIONS)} observations"
        rows.append(
            (f"sbibm: C2ST at most {C2ST} on all", said, max(found) <= C2ST and len(found) == len(OBSERVATIONS))
        )
    for r in _of(results, "planck"):
        off = max(abs(value - mean) / width for value, _, mean, width in r["parameters"].values())
        aim = f"Planck: within {DEVIATIONS:.0f} standard deviation of the published parameters"
        rows.append((aim, f"{off:.2f} at most", off <= DEVIATIONS))
    for r in _of(results, "spectrum"):
        best, times = min(r["trf best"], r["chi-square"]), f"{short(r['later'])} s, ten starts {short(r['trf ten'])}"
        met = r["chi-square"] <= 1.0001 * best and r["confidence"] >= SURE and r["later"] <= r["trf ten"]
        aim = f"{r['stars']}: the best of {r['starts']} starts of trf, confidence at least {SURE}, in the time of ten"
        rows.append((aim, f"chi-square {r['chi-square'] / best - 1:.0e} above, {r['confidence']:.2f}, {times}", met))
    for r in _of(results, "kilonova"):
        most = r["trf best"] + r["points"] * np.log(WITHIN)
        right = sum(value <= most for value in r["deviances"])
        aim = f"Kilonova: within 1% of the best of {r['starts']} starts of trf in 9 of 10 seeds"
        rows.append((aim, f"{right} of {len(r['deviances'])}", bool(right >= SEEDS_RIGHT * len(r["deviances"]))))
        posterior = r["posterior"]
        aim = "Kilonova: posterior mixed, within .1 deviations of another sampler"
        said = f"{posterior['status']}, {posterior['off by']:.2f} at most"
        rows.append((aim, said, posterior["status"] == "MIXED" and posterior["off by"] <= 0.1))
    for r in _of(results, "design"):
        ours, theirs = r["methods"][OURS], r["methods"][ADJOINT]
        share, first, last = ours["evaluations"] / theirs["evaluations"], ours["errors"][0], theirs["errors"][-1]
        aim = (
            f"{r['task']}: error at T = 1 at most the neural adjoint's at T = {PROPOSALS[-1]}, by a tenth of its passes"
        )
        said = (
            f"{first:.1e}, neural adjoint {last:.1e} (published {r['published']:.1e}), {100 * share:.2g}% of its passes"
        )
        rows.append((aim, said, first <= last and share <= SHARE))
    return aims(rows)


BENCHMARK = Benchmark(
    units=_units, measure=_measure, parts=PARTS, takes_data=True,
    blocks={
        "others aims": _aims, "others regressions": _regressions, "others posteriors": _posteriors,
        "others planck": _planck, "others spectra": _spectra, "others kilonova": _kilonova, "others designs": _designs,
    },
)  # fmt: skip
