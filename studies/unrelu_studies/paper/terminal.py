"""``unrelu reproduce`` on a terminal: a bar with the remaining time, the claims, where the files are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unrelu.cli.terminal import interruptible
from unrelu.errors import InputError
from unrelu_studies.paper import load
from unrelu_studies.paper.generators import TrainedGenerator
from unrelu_studies.paper.page import claims_table, page
from unrelu_studies.paper.running import execute, forget


def reproduce(
    names: Sequence[str], folder: Path, quick: bool, seed: int, workers: int | None, overwrite: bool, console: Console,
    generator: TrainedGenerator | None = None,
) -> bool:  # fmt: skip
    """Run experiments, on a generator from a file if one is given, and print what they say; whether all were finished.

    Raises:
        InputError: the folder cannot be made, or holds another run.
        SolverError: a worker process was killed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}; name a folder for the results") from error
    console.width = max(console.width, 100)
    told = "stopping when what has begun is finished (Ctrl-C again to end at once)"
    with interruptible("" if console.quiet else told) as interrupted:
        for name in dict.fromkeys(names):
            experiment = load(name, generator)
            if overwrite:
                forget(experiment, folder)
            with _bar(name, interrupted.is_set, console) as report:
                numbers = execute(experiment, folder, quick, seed, workers, report)
            if numbers is None:
                how = "without --overwrite" if overwrite else "with the same command"
                console.print(f"stopped; {folder}/{name}.partial.jsonl keeps what is finished: run it again {how} to "
                              "go on")  # fmt: skip
                return False
            console.print(claims_table(experiment, experiment.claims(numbers)))
    try:
        (folder / "reproduction.md").write_text(page(folder, ""), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}") from error
    files = " ".join(f"{name}.{{json,png,svg}}" for name in dict.fromkeys(names))
    console.print(f"written to {folder}/: reproduction.md {files}", highlight=False)
    return True


@contextmanager
def _bar(name: str, interrupted: Callable[[], bool], console: Console) -> Iterator[Callable[[int, int], bool]]:
    """A progress bar on stderr, as the report that :func:`execute` asks for."""
    columns = (
        TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True, quiet=console.quiet), transient=True) as bar:
        task = bar.add_task(name, total=None)

        def report(done: int, total: int) -> bool:
            bar.update(task, completed=done, total=total)
            return interrupted()

        yield report
