"""The command line: ``unrelu invert``, ``unrelu inspect``, ``unrelu demo``, ``unrelu benchmark``.

Commands import what they use when they run, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unrelu import __version__
from unrelu.errors import InputError, OptionError, UnreluError

if TYPE_CHECKING:
    from rich.console import Console

    from unrelu.network import Network
    from unrelu.problem import Progress
    from unrelu.result import Inversion

__all__ = ["app", "main"]

app = typer.Typer(
    name="unrelu",
    help="Invert deep ReLU generative models: find the latent code behind an observation, and say how good it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str,
    typer.Argument(help="A model file (.onnx .pt .pth .safetensors .npz), or a name of the zoo such as mnist-relu."),
]
Layers = Annotated[str | None, typer.Option(help="Names of the decoder's layers in a larger checkpoint: fc3,fc4")]
ActivationName = Annotated[str | None, typer.Option(help="Activation of a bare weight file: relu, leaky_relu:0.1, ...")]
LatentShape = Annotated[str | None, typer.Option(help="Shape of a latent code where the file does not tell: 64,1,1")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")]


def main() -> None:
    """Run the command line; errors of unrelu are printed without a traceback, with exit code 2."""
    try:
        app()
    except UnreluError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"unrelu {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def invert(
    model: Model,
    data: Annotated[Path, typer.Argument(help="Observations: a .npy or .npz file, one or a batch (B, ...).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; must not exist.")],
    method: Annotated[
        str,
        typer.Option(
            help="auto, exact, linf, l1, relaxed, least_squares, lm, gradient_descent, adam, plugin, ilo, projected"
        ),
    ] = "auto",
    option: Annotated[list[str] | None, typer.Option("--option", "-O", help="Option of the method: name=value")] = None,
    noise: Annotated[str | None, typer.Option(help="uniform:A, gaussian:S or outliers:P, in units of the data")] = None,
    norm: Annotated[str | None, typer.Option(help="Objective: l2, l1 or linf (default: that of the noise)")] = None,
    mask: Annotated[Path | None, typer.Option(help="0/1 masks (.npy, .npz): entries under a 0 are ignored.")] = None,
    operator: Annotated[
        Path | None, typer.Option(help="Matrix A (.npy, or .npz of scipy.sparse) that the outputs were measured with.")
    ] = None,
    prior: Annotated[float, typer.Option(help="Weight of |z|^2 in the l2 objective.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    time_limit: Annotated[float | None, typer.Option(help="Seconds for the whole run.")] = None,
    layers: Layers = None,
    activation: ActivationName = None,
    latent_shape: LatentShape = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in an existing folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Find the latent codes of the observations in DATA and write them to a folder.

    The folder gets codes.npy, reconstructions.npy and results.jsonl (one line an observation). Ctrl-C stops the search
    and writes what was found; a second Ctrl-C ends at once.
    """
    from rich.console import Console

    from unrelu.methods import make
    from unrelu.problem import Problem
    from unrelu.solve import invert as run
    from unrelu.stores import prepare_output, read_measurement, read_observations, write_result

    options = _options(option or [])
    make(method, options)
    y = read_observations(data)
    network = _network(model, layers, activation, latent_shape)
    stated = {"operator": read_measurement(mask, operator), "noise": noise, "norm": norm, "prior": prior, "seed": seed,
              "time_limit": time_limit}  # fmt: skip
    problem = Problem.build(network, y, **stated)
    prepare_output(output, overwrite)
    console = Console(stderr=True, quiet=quiet)
    with _removed_if_empty(output), _progress(console, method, problem.size) as callback:
        result = run(network, y, method, callback=callback, **stated, **options)
    write_result(output, result)
    if not quiet:
        _print_summary(Console(), result, output)


@app.command()
def inspect(
    model: Model,
    layers: Layers = None,
    activation: ActivationName = None,
    latent_shape: LatentShape = None,
    samples: Annotated[int, typer.Option(min=1, help="Latent codes to sample.")] = 256,
) -> None:
    """Print the layers of MODEL, their expansion, and whether exact inversion can be expected."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from unrelu.inspection import ASSUMED_EXPANSION, share
    from unrelu.inspection import inspect as look

    network = _network(model, layers, activation, latent_shape)
    seen = look(network, samples)
    title = f"{model}: latent {network.latent_shape} to output {network.output_shape}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("layer", "map", "activation"):
        table.add_column(heading, no_wrap=True)
    for heading in ("in", "out", "out/in", f">= {ASSUMED_EXPANSION}", "exact"):
        table.add_column(heading, justify="right")
    for i, layer in enumerate(seen.layers, 1):
        expands = "yes" if layer.expands else "no"
        sizes = (str(layer.n_in), str(layer.n_out), f"{layer.expansion:.2f}", expands, share(layer.determined))
        table.add_row(str(i), layer.name, layer.activation, *sizes)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"out/in >= {ASSUMED_EXPANSION} is the paper's Assumption 1; exact: share of {seen.samples} sampled codes "
        "for which at least as many outputs as inputs tell their pre-activation\n"
    )
    console.print(f"[bold]identifiable[/bold]  {share(seen.identifiable)} of sampled codes")
    console.print(f"[bold]expect[/bold]        {seen.verdict}")
    console.print(f"[bold]method[/bold]        {seen.recommended}")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the picture and the results.")] = Path(
        "demo"
    ),
    overwrite: Annotated[bool, typer.Option(help="Replace the results in an existing folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Invert noisy digits with every method: a table, a picture and results.jsonl."""
    from rich.console import Console

    from unrelu.demo import run_demo
    from unrelu.stores import prepare_output

    prepare_output(output, overwrite)
    run_demo(output, Console(quiet=quiet))


@app.command()
def benchmark(
    measurement: Annotated[
        str,
        typer.Argument(
            help="layers: one layer program against scipy, HiGHS, cvxopt and least squares; throughput: one thread "
            "against two; network: a whole inversion against HiGHS under our search and under the published loop; "
            "cold-start: the first call of a process; search: auto against lm and adam from ten starts."
        ),
    ] = "layers",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the numbers. [default: benchmark-MEASUREMENT]")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Few instances of small problems.")] = False,
    instances: Annotated[
        int | None, typer.Option(min=1, help="Instances of each layer and program, or of each search.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the instances; the default is that of the report.")] = 20260,
    generator: Annotated[
        list[str] | None, typer.Option(help="search: a generator to measure, again for another. [default: all]")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in an existing folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Time the layer programs against other solvers, and the search against other methods, on one thread.

    The folder gets the raw numbers, MEASUREMENT.json, and of "layers" and "search" a picture, MEASUREMENT.png.
    """
    from rich.console import Console

    from unrelu.benchmarks.report import MEASUREMENTS, Command, run
    from unrelu.benchmarks.search_cells import RANDOM, ZOO
    from unrelu.stores import prepare_output

    if measurement not in MEASUREMENTS:
        raise OptionError(f"benchmark {measurement!r} is unknown; use one of {', '.join(MEASUREMENTS)}")
    if unknown := set(generator or ()) - {*ZOO, *RANDOM}:
        raise OptionError(f"--generator {min(unknown)!r} is unknown; use some of {', '.join((*ZOO, *RANDOM))}")
    folder = output or Path(f"benchmark-{measurement}")
    prepare_output(folder, overwrite)
    console = Console(quiet=quiet)
    # The tables would lose digits where the output is a file or the terminal narrow.
    console.width = max(console.width, 100)
    with _removed_if_empty(folder):
        run(Command(measurement, instances, quick, seed, tuple(generator or ())), folder, console)


def _network(model: str, layers: str | None, activation: str | None, latent_shape: str | None) -> Network:
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
        activation=activation,
        latent_shape=shape,
    )


def _options(pairs: list[str]) -> dict[str, Any]:
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
        except ValueError:
            continue
    return text


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Leave no empty output folder behind when the work in it fails."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


@contextmanager
def _progress(console: Console, method: str, size: int) -> Iterator[Callable[[Progress], bool]]:
    """A progress bar as a callback, which also turns the first Ctrl-C into a stop that keeps what was found."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    interrupted = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print("stopping; what was found so far will be written (Ctrl-C again to end at once)")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("iteration {task.fields[nit]}"),
        TimeElapsedColumn(),
    )
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(method, total=size, nit=0)

            def callback(progress: Progress) -> bool:
                bar.update(task, completed=progress.done, nit=progress.nit)
                return interrupted

            yield callback
            if not interrupted:
                bar.update(task, completed=size)
    finally:
        signal.signal(signal.SIGINT, before)


def _print_summary(console: Console, result: Inversion, output: Path) -> None:
    import numpy as np
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    states, successes = np.atleast_1d(result.status), np.atleast_1d(result.success)
    title = f"{len(states)} observation{'s' * (len(states) != 1)}, method {result.method}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("status", "count", "success", "median objective", "meaning"):
        table.add_column(heading, justify="right" if heading in ("count", "median objective") else "left")
    for status in sorted(set(states), key=lambda s: s.name):
        chosen = states == status
        success = "yes" if successes[chosen].all() else "no"
        objectives = np.atleast_1d(result.fun)[chosen]
        reached = objectives[np.isfinite(objectives)]
        objective = f"{np.median(reached):.3g}" if len(reached) else "-"
        table.add_row(status.name, str(int(chosen.sum())), success, objective, status.value)
    console.print(table)
    told = int(np.sum(result.identifiable))
    console.print(f"identifiable: {told} of {len(states)}, by the rank at their codes")
    seconds = result.problem.control.elapsed()
    console.print(f"{seconds:.2f} s; written to {output}/: codes.npy reconstructions.npy results.jsonl")
