"""Folders of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.certification.certificate import Certificate
from unrelu.errors import InputError, OutputExistsError
from unrelu.result import TESTS, Inversion
from unrelu.runs.columns import INTERVAL, number_or_none, numbers_of, numbers_of_posterior, plain
from unrelu.runtime.array_types import Array
from unrelu.runtime.file_writing import check_own_files, storing, write_records
from unrelu.sampling.draws import Posterior

# What to do where results cannot be written.
_ADVICE = "free space, or name another folder"


def prepare_output(folder: Path, overwrite: bool) -> None:
    """Make the output folder before any work starts; one that holds something is refused without ``overwrite``."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = any(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} is no folder for results: {error.strerror}; name another one") from error
    if there and not overwrite:
        raise OutputExistsError(f"{folder} exists; choose another folder, or pass --overwrite to replace its results")
    check_own_files(folder)


def write_result(folder: Path, result: Inversion, names: Sequence[str] | None = None) -> None:
    """Write ``codes.npy``, ``reconstructions.npy`` and ``results.jsonl``; arrays are shaped as in the result.

    ``names`` are those of the files that the observations were read from.
    """
    with storing(folder, _ADVICE):
        np.save(folder / "codes.npy", result.z)
        np.save(folder / "reconstructions.npy", result.reconstruction)
        write_records(folder / "results.jsonl", records(result, names))


def records(result: Inversion, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """One dictionary an observation: what happened to it, and its residuals, recomputed from z.

    ``name`` is that of its file, None where observations have none; ``index`` tells them apart. ``parameters`` are its
    code by name, if coordinates have names.
    """
    problem = result.problem
    numbers = numbers_of(result, problem.differences_of(problem.network.outputs(result.z.reshape(problem.size, -1))))
    verdict = {name: numbers.pop(name) for name in ("success", "p_value", *TESTS, "confidence")}
    states = [str(status) for status in np.atleast_1d(result.status)]
    columns = {"status": states, **verdict, "message": np.atleast_1d(result.message), **numbers}
    named = {}
    if problem.names.coordinate_names:
        named = {name: np.atleast_1d(values) for name, values in result.parameters.items()}
    for i in range(problem.size):
        row = {column: values[i] for column, values in columns.items()}
        name = None if names is None else names[i]
        parameters = {name: number_or_none(values[i]) for name, values in named.items()}
        yield {
            **plain({"index": i, "name": name, "method": result.method, "seed": problem.seed, **row}),
            **({"parameters": parameters} if named else {}),
        }


def write_posterior(folder: Path, posterior: Posterior, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``posterior.npz``, ``posterior.png`` and ``results.jsonl``, whose rows are :func:`posterior_records`."""
    with storing(folder, _ADVICE):
        posterior.save(folder / "posterior.npz")
        posterior.plot().savefig(folder / "posterior.png", dpi=150)
        write_records(folder / "results.jsonl", rows)


def posterior_records(posterior: Posterior, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One dictionary for each observation; ``names`` are those of their files.

    The statistics are the worst over all coordinates and the log-likelihood. If coordinates have names, ``parameters``
    are mean, standard deviation and interval by name.
    """
    problem = posterior.problem
    numbers = numbers_of_posterior(posterior)
    modes = [posterior.modes] if problem.single else posterior.modes
    codes = {name: numbers.pop(name).tolist() for name in ("mean", "std", "lower", "upper")}
    columns = {
        "message": np.atleast_1d(posterior.message),
        **numbers,
        **{
            name: np.atleast_1d(getattr(posterior, name))
            for name in ("p_value", "log_evidence", "log_evidence_error", "acceptance", "overlooked", "seconds")
        },
    }
    found, parameters = [], posterior.parameters
    for i, status in enumerate(np.atleast_1d(posterior.status)):
        row = {"index": i, "name": None if names is None else names[i], "seed": problem.seed, "status": str(status)}
        shares = [plain({"weight": mode.weight, "weight_error": mode.weight_error}) for mode in modes[i]]
        made = [share | {"z": mode.z.tolist()} for share, mode in zip(shares, modes[i], strict=True)]
        row |= plain({name: values[i] for name, values in columns.items()})
        found.append(row | {name: _numbers(values[i]) for name, values in codes.items()} | {"modes": made})
        if problem.names.coordinate_names:
            found[-1]["parameters"] = _by_name(parameters, i)
    return found


def _by_name(parameters: Mapping[str, Array], i: int) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation and the ends of the interval of each parameter of observation i."""
    found = {}
    for name, values in parameters.items():
        draws = values[i] if values.ndim > 2 else values
        draws = draws[np.isfinite(draws)]
        lower, upper = np.quantile(draws, ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)) if draws.size else (np.nan, np.nan)
        mean, std = (draws.mean(), draws.std(ddof=1)) if draws.size > 1 else (np.nan, np.nan)
        found[name] = plain({"mean": mean, "std": std, "lower": lower, "upper": upper})
    return found


def write_certificates(folder: Path, certificates: Sequence[Certificate], single: bool) -> None:
    """Write ``certificate-N.npz`` of each, ``certificates.jsonl`` and ``codes.npy``, one code if ``single``.

    Certificates and pictures of an earlier run in the folder are removed: they may be of other observations.
    """
    with storing(folder, _ADVICE):
        for old in (*folder.glob("certificate-*.npz"), folder / "bounds.png", folder / "box.png"):
            old.unlink(missing_ok=True)
        digits = len(str(len(certificates) - 1))
        for i, certificate in enumerate(certificates):
            certificate.save(folder / f"certificate-{i:0{digits}}.npz")
        codes = np.stack([certificate.z for certificate in certificates])
        np.save(folder / "codes.npy", codes[0] if single else codes)
        write_records(folder / "certificates.jsonl", certificate_records(certificates))


def certificate_records(certificates: Sequence[Certificate]) -> list[dict[str, Any]]:
    """One dictionary a certificate: the lines of ``certificates.jsonl``."""
    names = ("lower", "upper", "gap", "message", "norm", "rank", "identifiable", "eps", "radius", "nodes", "seconds")
    found = []
    for i, c in enumerate(certificates):
        box = None if c.box is None else _numbers(c.box.tolist())
        bounds = None if c.bounds is None else c.bounds.tolist()
        more = {"box": box, "bounds": bounds, "out_of_range": c.out_of_range}
        row = {"index": i, "status": c.status.name, **{name: getattr(c, name) for name in names}, **more}
        found.append(plain(row))
    return found


def _numbers(value: Any) -> Any:
    return [_numbers(part) for part in value] if isinstance(value, list) else number_or_none(value)
