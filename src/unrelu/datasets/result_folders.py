"""Folders of results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.certification.certificate import Certificate
from unrelu.errors import InputError, OutputExistsError
from unrelu.measurements.objectives import norms
from unrelu.result import TESTS, Inversion
from unrelu.runtime.array_types import Array
from unrelu.runtime.file_writing import storing, write_whole
from unrelu.sampling.draws import Posterior
from unrelu.sampling.sampled_chains import interval_of

# The probability of the intervals in files.
INTERVAL = 0.9
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


def check_own_files(folder: Path) -> None:
    """Refuse a folder for results with links, which lead what is written elsewhere, or pipes, which wait for ever."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            what = "a link" if path.is_symlink() else "no file"
            raise InputError(f"{path} is {what}, and results are written there; remove it, or name another folder")


def write_result(folder: Path, result: Inversion, names: Sequence[str] | None = None) -> None:
    """Write ``codes.npy``, ``reconstructions.npy`` and ``results.jsonl``; arrays are shaped as in the result.

    ``names`` are those of the files that the observations were read from.
    """
    with storing(folder, _ADVICE):
        np.save(folder / "codes.npy", result.z)
        np.save(folder / "reconstructions.npy", result.reconstruction)
        write_records(folder / "results.jsonl", records(result, names))


def numbers_of(result: Inversion, residual: Array) -> dict[str, Any]:
    """What the verdict on every observation is made of, (B,), by the names of columns; ``residual`` is (B, m)."""
    found = {
        "success": result.success,
        **{name: getattr(result, name) for name in ("p_value", *TESTS, "confidence")},
        "objective": result.fun,
        **{f"residual_{norm}": norms(residual, norm) for norm in ("l2", "l1", "linf")},
        "freedom": result.freedom,
        "rank": result.rank,
        "identifiable": result.identifiable,
        "nit": result.nit,
        "seconds": result.seconds,
    }
    return {name: np.atleast_1d(values) for name, values in found.items()}


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
        parameters = {name: _number(values[i]) for name, values in named.items()}
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


def numbers_of_posterior(posterior: Posterior) -> dict[str, Any]:
    """What the draws say of each observation, by the names of columns: of codes (B, \\*latent_shape), others (B,)."""
    chains, network = posterior.chains, posterior.problem.network
    said = [(one.mean, one.deviation, *interval_of(one.flat, INTERVAL)) for one in chains]
    codes = network.shaped(np.reshape(said, (len(chains), 4, network.latent_dim)))
    return {
        **{name: codes[:, j] for j, name in enumerate(("mean", "std", "lower", "upper"))},
        **{name: np.array([one.worst(name)[0] for one in chains]) for name in ("rhat", "ess", "tail_ess")},
    }


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


def write_records(path: Path, rows: Iterable[Mapping[str, Any]], advice: str = _ADVICE) -> None:
    """Write a line of JSON for each, as a whole or not at all (see :func:`write_whole`)."""
    write_whole(path, (json.dumps(row, allow_nan=False) + "\n" for row in rows), advice)


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: Python's numbers in place of NumPy's, and None for those that are not finite."""
    return {name: _number(value) for name, value in row.items()}


def _numbers(value: Any) -> Any:
    return [_numbers(part) for part in value] if isinstance(value, list) else _number(value)


def _number(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
