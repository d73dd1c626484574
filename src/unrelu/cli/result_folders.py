"""Folders of results, and the lines of their ``.jsonl`` files."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from unrelu._profile import Profile
from unrelu.certification.certificate import Certificate
from unrelu.cli.options import Folder
from unrelu.cli.terminal import progress_bar, refuse_existing, removed_if_empty
from unrelu.errors import InputError
from unrelu.result import Inversion
from unrelu.runs.columns import INTERVAL, numbers_of, numbers_of_posterior
from unrelu.runtime.file_writing import as_json, check_own_files, storing, write_records
from unrelu.runtime.run_control import Progress
from unrelu.sampling.draws import Posterior

# The advice when results cannot be written.
_ADVICE = "free space, or name another folder"
# The attributes of posteriors and certificates that the lines state.
_OF_POSTERIORS = ("message", "p_value", "log_evidence", "log_evidence_error", "acceptance", "overlooked", "seconds")
_OF_CERTIFICATES = (
    "lower", "upper", "gap", "message", "norm", "rank", "identifiable", "eps", "radius", "nodes", "seconds", "box",
    "bounds", "out_of_range",
)  # fmt: skip


def prepare_output(folder: Path, overwrite: bool) -> None:
    """Make the output folder before any work starts. Refuse a folder that is not empty, except with ``overwrite``."""
    try:
        refuse_existing(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
    except NotADirectoryError as error:
        raise InputError(f"{folder} is no folder for results: {error.strerror}; name another one") from error
    check_own_files(folder)


@contextmanager
def answering(
    folder: Folder, method: str, unit: str = "iteration", made: bool = True
) -> Iterator[tuple[Callable[[Progress], bool], Event]]:
    """Enter :func:`progress_bar`. Make the folder first if ``made``; remove it if the work fails and it is empty."""
    with removed_if_empty(folder.output), progress_bar(folder.quiet, method, unit) as shown:
        if made:
            prepare_output(folder.output, folder.overwrite)
        yield shown


def write_result(folder: Path, result: Inversion, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``codes.npy``, ``reconstructions.npy`` and ``results.jsonl``; arrays are shaped as in the result."""
    with storing(folder, _ADVICE):
        np.save(folder / "codes.npy", result.z)
        np.save(folder / "reconstructions.npy", result.reconstruction)
        write_records(folder / "results.jsonl", rows)


def records(result: Inversion, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return a dictionary for each observation: its verdict, and its residuals, recomputed from z.

    ``name`` is its file name, or None; ``index`` tells observations apart. ``parameters`` is its code by name, if
    coordinates have names.
    """
    problem = result.problem
    numbers = numbers_of(result, problem.differences_of(problem.network.outputs(result.batch.z)))
    rows = _rows(result, names, {"method": [result.method] * problem.size, "message": result.message, **numbers})
    if problem.names.coordinate_names:
        for i, row in enumerate(rows):
            row["parameters"] = {name: np.atleast_1d(values)[i] for name, values in result.parameters.items()}
    return [as_json(row) for row in rows]


def _rows(
    answer: Inversion | Posterior, names: Sequence[str] | None, columns: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return a dictionary for each observation: index, name, seed, status, and its entries of the columns."""
    told = {"status": np.atleast_1d(answer.status), **{name: np.atleast_1d(values) for name, values in columns.items()}}
    return [
        {"index": i, "name": names[i] if names else None, "seed": answer.problem.seed}
        | {name: values[i] for name, values in told.items()}
        for i in range(answer.problem.size)
    ]


def write_posterior(folder: Path, posterior: Posterior, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``posterior.npz``, ``posterior.png`` and ``results.jsonl``, whose rows are :func:`posterior_records`."""
    with storing(folder, _ADVICE):
        posterior.save(folder / "posterior.npz")
        posterior.plot().savefig(folder / "posterior.png", dpi=150)
        write_records(folder / "results.jsonl", rows)


def posterior_records(posterior: Posterior, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return a dictionary for each observation; ``names`` are file names.

    The statistics are the worst over all coordinates and the log-likelihood. If coordinates have names, ``parameters``
    holds mean, standard deviation and the ends of the interval by name.
    """
    columns = {name: getattr(posterior, name) for name in _OF_POSTERIORS} | numbers_of_posterior(posterior)
    modes = [posterior.modes] if posterior.problem.single else posterior.modes
    rows = _rows(posterior, names, columns)
    for i, row in enumerate(rows):
        row["modes"] = [{name: getattr(mode, name) for name in ("weight", "weight_error", "z")} for mode in modes[i]]
        if posterior.problem.names.coordinate_names:
            named = posterior.parameters.items()
            row["parameters"] = {name: _summary(v[i] if v.ndim > 2 else v) for name, v in named}
    return [as_json(row) for row in rows]


def _summary(draws: Any) -> dict[str, Any]:
    """Return mean, standard deviation and the ends of the interval from the draws of one parameter."""
    draws = draws[np.isfinite(draws)]
    if draws.size < 2:
        return dict.fromkeys(("mean", "std", "lower", "upper"))
    lower, upper = np.quantile(draws, ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2))
    return {"mean": draws.mean(), "std": draws.std(ddof=1), "lower": lower, "upper": upper}


def write_profile(folder: Path, found: Profile, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``codes.npy``, ``results.jsonl`` and, where the noise has a density, ``profile.png``."""
    with storing(folder, _ADVICE):
        np.save(folder / "codes.npy", found.z)
        write_records(folder / "results.jsonl", rows)
        with suppress(InputError):
            found.plot().savefig(folder / "profile.png", dpi=150)


def profile_records(found: Profile) -> list[dict[str, Any]]:
    """Return a dictionary for each value of the profile: the lines of ``results.jsonl``."""
    held = (dict(zip(found.names, point, strict=True)) for point in itertools.product(*found.values))
    return [
        as_json({**point, "fun": fun, "confidence": sure, "p_value": p})
        for point, fun, sure, p in zip(held, found.fun.flat, found.confidence.flat, found.p_value.flat, strict=True)
    ]


def write_certificates(folder: Path, certificates: Sequence[Certificate], single: bool) -> None:
    """Write each ``certificate-N.npz``, ``certificates.jsonl``, ``codes.npy`` (one code if ``single``) and pictures.

    Remove certificates and pictures of an earlier run from the folder, as they may belong to other observations.
    """
    from unrelu.report.certificates import draw_bounds, draw_box

    with storing(folder, _ADVICE):
        for old in (*folder.glob("certificate-*.npz"), folder / "bounds.png", folder / "box.png"):
            old.unlink(missing_ok=True)
        digits = len(str(len(certificates) - 1))
        for i, certificate in enumerate(certificates):
            certificate.save(folder / f"certificate-{i:0{digits}}.npz")
        codes = np.stack([certificate.z for certificate in certificates])
        np.save(folder / "codes.npy", codes[0] if single else codes)
        write_records(folder / "certificates.jsonl", certificate_records(certificates))
        draw_bounds(certificates).savefig(folder / "bounds.png", dpi=150)
        first = next((i for i, c in enumerate(certificates) if c.box is not None), None)
        if first is not None:
            name = "" if single else f"observation {first}"
            draw_box(certificates[first], name).savefig(folder / "box.png", dpi=150)


def certificate_records(certificates: Sequence[Certificate]) -> list[dict[str, Any]]:
    """Return a dictionary for each certificate: the lines of ``certificates.jsonl``."""
    return [
        as_json({"index": i, "status": c.status.name, **{name: getattr(c, name) for name in _OF_CERTIFICATES}})
        for i, c in enumerate(certificates)
    ]
