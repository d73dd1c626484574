"""The commands that the studies add to the command line: ``unrelu reproduce`` and ``unrelu benchmark``.

They import their dependencies when they run, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrelu.cli.options import ActivationName, Json, Layers, Quiet
from unrelu.cli.terminal import leave, removed_if_empty
from unrelu.errors import OptionError
from unrelu_studies.benchmarks import BENCHMARKS, REPORT_SEED
from unrelu_studies.paper import MODULES as EXPERIMENTS
from unrelu_studies.paper import ON_A_NETWORK
from unrelu_studies.paper import load as load_experiment


def reproduce(
    figures: Annotated[list[str], typer.Argument(help=f"all, or some of: {', '.join(EXPERIMENTS)}")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the numbers and the pictures. [default: reproduction, or with --network "
            "reproduction-NAME, after the file]",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            metavar="FILE",
            help=f"Run {', '.join(ON_A_NETWORK)} on a decoder of 28 x 28 pixels from your "
            "file (.onnx .pt .pth .safetensors .npz) instead of ours.",
        ),
    ] = None,
    layers: Layers = None,
    activation: ActivationName = None,
    quick: Annotated[bool, typer.Option(help="Few runs of each: minutes for all, instead of an hour.")] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of every random choice; the default is that of the page.")
    ] = 2026,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. [default: one a core]")] = None,
    overwrite: Annotated[bool, typer.Option(help="Forget what the folder holds of these figures.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run experiments of the paper again: their numbers, pictures and what they say to its claims.

    The folder gets NAME.json, NAME.png and NAME.svg of each, and reproduction.md. Run the same command again to go on
    after a stop: what is finished is not run again. Ctrl-C finishes what has begun; a second Ctrl-C ends at once.

    With --network, some figures run on a decoder from your file, such as those that the paper's authors published:
    unrelu reproduce fig1c fig1d fig3 fig4 --network FILE --layers fc3,fc4 --activation relu
    """
    from rich.console import Console

    from unrelu_studies.kit.trained_generators import from_file
    from unrelu_studies.paper.reproducing import reproduce as run_experiments

    if network is None and (layers or activation):
        raise OptionError("--layers and --activation say how to read the file of --network; name it as well")
    names = list(EXPERIMENTS) if "all" in figures else figures
    generator = from_file(network, layers, activation) if network else None
    for name in names:
        load_experiment(name, generator)
    folder = output or Path(f"reproduction-{Path(generator.name).stem}" if generator else "reproduction")
    console = Console(quiet=quiet, stderr=json)
    finished = run_experiments(names, folder, quick, seed, workers, overwrite, console, generator)
    if json:
        leave("reproduce", {"output": str(folder), "figures": names, "finished": finished})
    if not finished:
        raise typer.Exit(130)


def benchmark(
    measurement: Annotated[
        str,
        typer.Argument(
            help=f"One of: {', '.join(BENCHMARKS)}. What each measures, and what came out: docs/benchmarks.md."
        ),
    ] = "layers",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the numbers. [default: benchmark-MEASUREMENT]")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Few instances of small problems.")] = False,
    instances: Annotated[
        int | None, typer.Option(min=1, help="Instances of each layer and program, or of each search.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the instances; the default is that of the report.")
    ] = REPORT_SEED,
    part: Annotated[
        list[str] | None,
        typer.Option(help="search: a generator to measure; posterior: a part; again for another. [default: all]"),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="others: the folder with the data; docs/benchmarks.md.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in an existing folder.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Time the layer programs against other solvers, and the search against other methods, on one thread.

    The folder gets the raw numbers, MEASUREMENT.json. Run the same command again to go on after a stop: what is
    finished is not measured again. Ctrl-C finishes what has begun; a second Ctrl-C ends at once.
    """
    from rich.console import Console

    from unrelu_studies.benchmarks.benchmark import Command, load, run

    parts = load(measurement).parts
    if data and not load(measurement).takes_data:
        raise OptionError(f"--data {data} has no use: {measurement} makes its own data; leave it out")
    if unknown := set(part or ()) - set(parts):
        known = f"use some of {', '.join(parts)}" if parts else f"{measurement} has none"
        raise OptionError(f"--part {min(unknown)!r} is unknown; {known}")
    folder = output or Path(f"benchmark-{measurement}")
    console = Console(quiet=quiet, stderr=json)
    # The tables would lose digits where the output is a file or the terminal narrow.
    console.width = max(console.width, 120)
    command = Command(measurement, instances, quick, seed, tuple(part or ()), str(data) if data else None)
    with removed_if_empty(folder):
        finished = run(command, folder, overwrite, console)
    if json:
        leave("benchmark", {"output": str(folder), "measurement": measurement, "finished": finished})
    if not finished:
        raise typer.Exit(130)
