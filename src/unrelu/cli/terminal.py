"""What commands share: models by name, options, progress bars that can be interrupted, tables, summaries.

Everything heavy is imported where it is used, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unrelu.errors import InputError, OptionError
from unrelu.runtime.interrupts import interruptible
from unrelu.runtime.words import count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from unrelu.certification.certificate import Certificate
    from unrelu.models.generator import Generator
    from unrelu.problem import Progress
    from unrelu.result import Inversion

# Columns of text; the others are of numbers. Only the last is broken into lines.
_TEXT = ("status", "layer", "map", "activation", "method", "meaning")


def limit_of(max_bytes: int | None) -> int:
    """What ``--max-bytes`` says, or its default."""
    from unrelu.runtime.file_reading import MAX_BYTES

    return MAX_BYTES if max_bytes is None else max_bytes


def network_of(
    model: str, layers: str | None, activation: str | None, latent_shape: str | None, max_bytes: int | None = None
) -> Generator:
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
    prefix = layers is not None and layers.endswith(".")
    return load(
        model,
        layers=layers if prefix or not layers else [name.strip() for name in layers.split(",")],
        activation=activation.split(",") if activation and "," in activation else activation,
        latent_shape=shape,
        max_bytes=limit_of(max_bytes),
    )


def size_of(text: str | None) -> tuple[int, int] | None:
    """What ``--size`` says."""
    if text is None:
        return None
    try:
        height, width = map(int, text.split(","))
    except ValueError:
        raise InputError(f"--size {text!r} is not HEIGHT,WIDTH; pass two whole numbers such as 28,28") from None
    if min(height, width) < 1:
        raise InputError(f"--size {text!r}: a picture has at least one pixel; pass two whole numbers such as 28,28")
    return height, width


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
    """Leave no empty output folder behind when the work in it fails, but one that was there before."""
    made = not folder.exists()
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if made:
                folder.rmdir()
        raise


def end(failed: int, size: int, interrupted: bool, messages: Path) -> None:
    """End a command with exit status 130, 1 or 0; say how many observations have no code, and which file says why."""
    if failed:
        print(f"{failed} of {size} observations failed, their messages are in {messages}", file=sys.stderr)
    if interrupted or failed:
        raise typer.Exit(130 if interrupted else 1)


@contextmanager
def progress_bar(
    console: Console, method: str, size: int, unit: str = "iteration"
) -> Iterator[tuple[Callable[[Progress], bool], threading.Event]]:
    """A progress bar as a callback, and whether Ctrl-C was pressed: the first one stops, and keeps what was found."""
    from unrelu.display.progress_bar import bar_of

    told = "stopping; what was found so far will be written (Ctrl-C again to end at once)"
    with interruptible("" if console.quiet else told) as interrupted, bar_of(console, method, size) as bar:
        task = bar.task_ids[0]
        bar.update(task, note=f"{unit} 0")

        def callback(progress: Progress) -> bool:
            bar.update(task, completed=progress.done, total=progress.total, note=f"{unit} {progress.nit}")
            return interrupted.is_set()

        yield callback, interrupted
        if not interrupted.is_set():
            bar.update(task, completed=bar.tasks[0].total)


def table(title: str, *headings: str) -> Table:
    """A table without rows."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        text = heading in _TEXT
        made.add_column(heading, justify="left" if text else "right", no_wrap=text and heading != _TEXT[-1])
    return made


def print_summary(console: Console, result: Inversion, output: Path) -> None:
    """How the inversions ended."""
    import numpy as np

    states, successes = np.atleast_1d(result.status), np.atleast_1d(result.success)
    title = f"{count(len(states), 'observation')}, method {result.method}"
    summary = table(title, "status", "count", "success", "median objective", "meaning")
    for status in sorted(set(states), key=lambda s: s.name):
        chosen = states == status
        reached = np.atleast_1d(result.fun)[chosen]
        reached = reached[np.isfinite(reached)]
        objective = f"{np.median(reached):.3g}" if len(reached) else "-"
        summary.add_row(status.name, str(chosen.sum()), str(successes[chosen].sum()), objective, status.value)
    console.print(summary)
    if np.isfinite(result.p_value).any():
        console.print(f"p-values under the stated noise: {_spread(result.p_value)}")
    elif np.isfinite(result.confidence).any():
        console.print(f"confidence that no code fits more than 1% better: {_spread(result.confidence)}")
    written = "codes.npy reconstructions.npy results.jsonl"
    _print_end(console, result.identifiable, f"{result.problem.control.elapsed():.2f} s", output, written)


def _spread(values: Any) -> str:
    """The value, or the least, the median and the most of several."""
    import numpy as np

    known = np.atleast_1d(values)[np.isfinite(np.atleast_1d(values))]
    if len(known) == 1:
        return f"{known[0]:.2g}"
    return f"{known.min():.2g} to {known.max():.2g}, median {np.median(known):.2g}"


def _print_end(console: Console, identifiable: Any, said: str, output: Path, written: str) -> None:
    """The last lines of a summary."""
    import numpy as np
    from rich.markup import escape

    console.print(f"identifiable: {np.sum(identifiable)} of {np.size(identifiable)}, by the rank at their codes")
    console.print(f"{said}; written to {escape(str(output))}/: {written}", soft_wrap=True)


def print_certificates(console: Console, certificates: Sequence[Certificate], output: Path) -> None:
    """How the proofs ended."""
    import numpy as np

    among = "all codes" if certificates[0].bounds is None else "codes within the bounds"
    title = f"{count(len(certificates), 'observation')}, smallest {certificates[0].norm} error over {among}"
    summary = table(title, "status", "count", "lower", "upper", "gap", "nodes", "seconds", "meaning")
    formats = {"lower": ".3g", "upper": ".3g", "gap": ".3g", "nodes": ".0f", "seconds": ".2f"}
    for status in sorted({c.status for c in certificates}, key=lambda s: s.name):
        chosen = [c for c in certificates if c.status is status]
        medians = {name: np.median([getattr(c, name) for c in chosen]) for name in formats}
        cells = (format(float(medians[name]), how) for name, how in formats.items())
        summary.add_row(status.name, str(len(chosen)), *cells, status.value)
    console.print(summary)
    limited = [c.radius for c in certificates if np.isfinite(c.radius)]
    if limited:
        others = ", the others about all codes" if len(limited) < len(certificates) else ""
        console.print(f"{len(limited)} of {len(certificates)} about codes with |z_i| <= {max(limited):g}{others}")
    written = "certificate-*.json certificates.jsonl codes.npy and pictures"
    _print_end(console, [c.identifiable for c in certificates], "medians", output, written)
