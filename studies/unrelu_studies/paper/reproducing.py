"""``unrelu reproduce`` on a terminal: experiments one after the other, their claims, where the files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from unrelu.errors import InputError
from unrelu_studies.kit.trained_generators import TrainedGenerator
from unrelu_studies.kit.unit_runner import forget, interrupts, progress_bar, say_stopped, show
from unrelu_studies.paper import load
from unrelu_studies.paper.experiment import execute
from unrelu_studies.paper.reproduction_page import claims_table, page


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
    with interrupts(console) as interrupted:
        for name in dict.fromkeys(names):
            experiment = load(name, generator)
            if overwrite:
                forget(name, folder)
            with progress_bar(name, interrupted, console) as report:
                numbers = execute(experiment, folder, quick, seed, workers, report)
            if numbers is None:
                say_stopped(name, folder, overwrite, console)
                return False
            show(f"## {experiment.title}\n\n{claims_table(experiment.claims(numbers))}", console)
    try:
        (folder / "reproduction.md").write_text(page(folder, ""), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}") from error
    files = " ".join(f"{name}.{{json,png,svg}}" for name in dict.fromkeys(names))
    console.print(f"written to {folder}/: reproduction.md {files}", highlight=False)
    return True
