"""What commands share: models by name, options, progress bars that can be interrupted, summaries.

Everything heavy is imported where it is used, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unrelu.errors import InputError, OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from unrelu.certification.certificate import Certificate
    from unrelu.models.network import Network
    from unrelu.problem import Progress
    from unrelu.result import Inversion


def limit_of(max_bytes: int | None) -> int:
    """What ``--max-bytes`` says, or its default."""
    from unrelu.runtime.file_reading import MAX_BYTES

    return MAX_BYTES if max_bytes is None else max_bytes


def network_of(
    model: str, layers: str | None, activation: str | None, latent_shape: str | None, max_bytes: int | None = None
) -> Network:
    """A network of the zoo by its name, or from a file."""
    from unrelu import zoo
    from unrelu.loaders import load

    if model in zoo.names() and not Path(model).exists():
        if layers or activation or latent_shape:
            raise OptionError(
                f"{model} is a network of the zoo; --layers, --activation and --latent-shape are for files"
            )
        return zoo.load(model)
    if not Path(model).suffix and not Path(model).exists():
        raise InputError(f"{model}: no such file; the zoo has {', '.join(zoo.names())}")
    try:
        shape = tuple(int(n) for n in latent_shape.split(",")) if latent_shape else None
    except ValueError:
        raise InputError(f"--latent-shape {latent_shape!r}: write whole numbers with commas, e.g. 64,1,1") from None
    return load(
        model,
        layers=[name.strip() for name in layers.split(",")] if layers else None,
        activation=activation.split(",") if activation and "," in activation else activation,
        latent_shape=shape,
        max_bytes=limit_of(max_bytes),
    )


def options_of(pairs: list[str]) -> dict[str, Any]:
    """``name=value`` pairs."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise OptionError(f"--option {pair!r}: write name=value, e.g. alpha=1.5")
        if name in options:
            raise OptionError(f"--option {name} is given twice")
        options[name] = _value(text)
    return options


def _value(text: str) -> Any:
    """A number where the text is one, else what it is as JSON, else the text."""
    for read in (int, float, json.loads):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return text


def plain(text: str) -> str:
    """Text from a file for a terminal, which its control characters would steer; for rich, with its markup escaped."""
    from rich.markup import escape

    return escape("".join(c if c >= " " and not "\x7f" <= c < "\xa0" else f"\\x{ord(c):02x}" for c in text))


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Leave no empty output folder behind when the work in it fails."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


def end(failed: int, size: int, interrupted: bool, messages: Path) -> None:
    """End a command that inverted observations, with exit status 130, 1 or 0.

    Args:
        failed: how many have no code, which is said.
        size: how many there were.
        interrupted: whether Ctrl-C ended the work.
        messages: the file that says why they failed.
    """
    if failed:
        print(f"{failed} of {size} observations failed, their messages are in {messages}", file=sys.stderr)
    if interrupted or failed:
        raise typer.Exit(130 if interrupted else 1)


def tell(console: Console, text: str) -> None:
    """A line on standard error from a signal's handler, unless the console is quiet.

    It goes past Python's buffers, which the code that was interrupted may be writing to.
    """
    if not console.quiet:
        with suppress(OSError):
            os.write(2, f"{text}\n".encode())


@contextmanager
def progress_bar(
    console: Console, method: str, size: int, unit: str = "iteration"
) -> Iterator[tuple[Callable[[Progress], bool], threading.Event]]:
    """A progress bar as a callback, and whether Ctrl-C was pressed: the first one stops, and keeps what was found."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    interrupted = threading.Event()

    def interrupt(number: int, frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)
        tell(console, "stopping; what was found so far will be written (Ctrl-C again to end at once)")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " {task.fields[nit]}"),
        TimeElapsedColumn(),
    )
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(method, total=size, nit=0)

            def callback(progress: Progress) -> bool:
                bar.update(task, completed=progress.done, total=progress.total, nit=progress.nit)
                return interrupted.is_set()

            yield callback, interrupted
            if not interrupted.is_set():
                bar.update(task, completed=bar.tasks[0].total)
    finally:
        signal.signal(signal.SIGINT, before)


def print_summary(console: Console, result: Inversion, output: Path) -> None:
    """How the inversions ended."""
    import numpy as np
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    states, successes = np.atleast_1d(result.status), np.atleast_1d(result.success)
    title = f"{len(states)} observation{'s' * (len(states) != 1)}, method {result.method}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("status", "count", "success", "median objective", "meaning"):
        table.add_column(heading, justify="left" if heading in ("status", "meaning") else "right")
    for status in sorted(set(states), key=lambda s: s.name):
        chosen = states == status
        success = f"{int(successes[chosen].sum())}"
        objectives = np.atleast_1d(result.fun)[chosen]
        reached = objectives[np.isfinite(objectives)]
        objective = f"{np.median(reached):.3g}" if len(reached) else "-"
        table.add_row(status.name, str(int(chosen.sum())), success, objective, status.value)
    console.print(table)
    if np.isfinite(result.p_value).any():
        console.print(f"p-values under the stated noise: {_spread(result.p_value)}")
    elif np.isfinite(result.confidence).any():
        console.print(f"confidence that no code fits more than 1% better: {_spread(result.confidence)}")
    told = int(np.sum(result.identifiable))
    console.print(f"identifiable: {told} of {len(states)}, by the rank at their codes")
    seconds = result.problem.control.elapsed()
    written = "codes.npy reconstructions.npy results.jsonl"
    console.print(f"{seconds:.2f} s; written to {escape(str(output))}/: {written}", soft_wrap=True)


def _spread(values: Any) -> str:
    """The value, or the least, the median and the most of several."""
    import numpy as np

    known = np.atleast_1d(values)[np.isfinite(np.atleast_1d(values))]
    if len(known) == 1:
        return f"{known[0]:.2g}"
    return f"{known.min():.2g} to {known.max():.2g}, median {np.median(known):.2g}"


def read_codes(path: Path, max_bytes: int | None = None) -> Any:
    """Codes from a .npy file, or from the results of ``unrelu invert``."""
    from unrelu.datasets import read_observations

    return read_observations(path / "codes.npy" if path.is_dir() else path, "codes", "codes", limit_of(max_bytes))


def print_certificates(console: Console, certificates: Sequence[Certificate], output: Path) -> None:
    """How the proofs ended."""
    import numpy as np
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    norm = certificates[0].norm
    title = f"{len(certificates)} observation{'s' * (len(certificates) != 1)}, smallest {norm} error over all codes"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("status", "count", "lower", "upper", "gap", "nodes", "seconds", "meaning"):
        table.add_column(heading, justify="left" if heading in ("status", "meaning") else "right")
    for status in sorted({c.status for c in certificates}, key=lambda s: s.name):
        chosen = [c for c in certificates if c.status is status]
        numbers = (float(np.median([getattr(c, name) for c in chosen])) for name in ("lower", "upper", "gap"))
        nodes, seconds = (float(np.median([getattr(c, name) for c in chosen])) for name in ("nodes", "seconds"))
        cells = (*(f"{number:.3g}" for number in numbers), f"{nodes:.0f}", f"{seconds:.2f}")
        table.add_row(status.name, str(len(chosen)), *cells, status.value)
    console.print(table)
    limited = [c.radius for c in certificates if np.isfinite(c.radius)]
    if limited:
        others = ", the others about all codes" if len(limited) < len(certificates) else ""
        console.print(f"{len(limited)} of {len(certificates)} about codes with |z_i| <= {max(limited):g}{others}")
    told = sum(c.identifiable for c in certificates)
    console.print(f"identifiable: {told} of {len(certificates)}, by the rank at their codes")
    written = "certificate-*.json certificates.jsonl codes.npy and pictures"
    console.print(f"medians; written to {escape(str(output))}/: {written}", soft_wrap=True)
