"""The command line: ``unrelu invert``, ``run``, ``status``, ``certify``, ``inspect``, ``demo``, ``reproduce``...

Commands import what they use when they run, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unrelu._version import __version__
from unrelu.cli import options as opt
from unrelu.cli.json_output import leave
from unrelu.cli.terminal import (
    end,
    limit_of,
    network_of,
    options_of,
    print_certificates,
    print_summary,
    progress_bar,
    removed_if_empty,
    size_of,
    table,
)
from unrelu.errors import InputError, MissingPackageError
from unrelu.runtime.words import share

if TYPE_CHECKING:
    from unrelu.models.generator import Generator

# Groups of options in the help.
_READING, _WORKERS = "What is read", "Who computes"

app = typer.Typer(
    name="unrelu",
    help="Invert deep ReLU generative models: find the latent code behind an observation, and say how good it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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


@app.command(epilog=opt.EXAMPLES["invert"])
def invert(
    model: opt.Model,
    data: opt.ObservationsOrPicture,
    output: opt.OutputFolderOrPicture,
    method: opt.Method = "auto",
    option: opt.Options = None,
    noise: opt.Noise = None,
    bounds: opt.Bounds = None,
    norm: opt.Norm = None,
    mask: opt.MaskFile = None,
    operator: opt.OperatorFile = None,
    prior: opt.Prior = 0.0,
    seed: opt.Seed = 0,
    time_limit: Annotated[float | None, typer.Option(help="Seconds for the whole run.")] = None,
    size: opt.Size = None,
    scale: opt.Scale = None,
    layers: opt.Layers = None,
    activation: opt.ActivationName = None,
    latent_shape: opt.LatentShape = None,
    max_bytes: opt.MaxBytes = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Find the latent codes of the observations in DATA: a picture in and one out, or arrays in and a folder out.

    The folder gets codes.npy, reconstructions.npy and results.jsonl (one line an observation). With -o out.png one
    observation's reconstruction is written as a picture. The values of a picture are mapped to the generator's scale.
    Ctrl-C stops the search and writes what was found; a second Ctrl-C ends at once.
    """
    from rich.console import Console

    from unrelu._invert import invert as find
    from unrelu.cli.documents import failures, invert_document
    from unrelu.cli.picture_inversion import PictureFile, read_given
    from unrelu.datasets.pictures import is_picture
    from unrelu.datasets.result_folders import prepare_output, write_result
    from unrelu.datasets.small_files import read_bounds, read_measurement
    from unrelu.methods import make, refuse
    from unrelu.problem import Problem

    options, limit = options_of(option or []), limit_of(max_bytes)
    chosen = make(method, options)
    network = network_of(model, layers, activation, latent_shape, max_bytes)
    given = read_given(data, network, size_of(size), scale, operator is not None, limit)
    stated: dict[str, Any] = {
        "operator": read_measurement(mask, operator, limit), "noise": noise, "bounds": read_bounds(bounds, limit),
        "norm": norm, "prior": prior, "seed": seed, "time_limit": time_limit, "scale": given.scale,
    }  # fmt: skip
    problem = Problem.build(network, given.y, **stated)
    refuse(chosen, problem)
    picture = PictureFile.of(output, given, problem.size, network, overwrite) if is_picture(output) else None
    console, shown = Console(stderr=True, quiet=quiet), Console(quiet=quiet or json)
    with removed_if_empty(output):
        if picture is None:
            prepare_output(output, overwrite)
        with progress_bar(console, method, problem.size) as (callback, interrupted):
            result = find(network, given.y, method, callback=callback, **stated, **options)
    if json:
        leave("invert", invert_document(result, output, given.names, interrupted.is_set()))
    if picture is not None:
        found = picture.finish(shown, given, result)
        raise typer.Exit(130 if interrupted.is_set() else 0 if found else 1)
    write_result(output, result, given.names)
    print_summary(shown, result, output)
    end(failures(result), problem.size, interrupted.is_set(), output / "results.jsonl")


@app.command(epilog=opt.EXAMPLES["certify"])
def certify(
    model: opt.Model,
    data: opt.Observations,
    output: opt.OutputFolder,
    codes: Annotated[
        Path | None,
        typer.Option(help="Codes to certify: .npy, or a folder of `unrelu invert`. [default: found by auto]"),
    ] = None,
    noise: Annotated[
        str | None, typer.Option(help="uniform:A asks for a box of all codes with errors up to A; in units of the data")
    ] = None,
    bounds: opt.Bounds = None,
    norm: Annotated[str | None, typer.Option(help="linf or l1 (default: that of the noise, else linf)")] = None,
    mask: opt.MaskFile = None,
    operator: opt.OperatorFile = None,
    box: Annotated[bool, typer.Option(help="The box of all codes that explain the observation.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the inversion.")] = 0,
    time_limit: Annotated[float, typer.Option(help="Seconds for each observation, without its inversion.")] = 10.0,
    max_nodes: Annotated[int, typer.Option(help="Relaxations for each observation.")] = 50_000,
    scale: opt.Scale = None,
    layers: opt.Layers = None,
    activation: opt.ActivationName = None,
    latent_shape: opt.LatentShape = None,
    max_bytes: opt.MaxBytes = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Bound the smallest error over all codes, and prove the bounds.

    The folder gets certificate-N.json (one an observation, whose bounds can be verified without a solver),
    certificates.jsonl, codes.npy (the best codes), bounds.png and, of uniform noise, box.png. Ctrl-C stops the search
    and writes the bounds that were reached; a second Ctrl-C ends at once.
    """
    from rich.console import Console

    from unrelu._certify import certify as prove
    from unrelu.certification.certificate import Certificate, Certificates
    from unrelu.cli.documents import certify_document
    from unrelu.datasets.result_folders import prepare_output, write_certificates
    from unrelu.datasets.small_files import read_bounds, read_measurement, read_observations
    from unrelu.report.certificates import draw_bounds, draw_box

    limit = limit_of(max_bytes)
    y = read_observations(data, max_bytes=limit)
    found = None
    if codes:
        found = read_observations(codes / "codes.npy" if codes.is_dir() else codes, "codes", "codes", limit)
    network = network_of(model, layers, activation, latent_shape, max_bytes)
    measured, within = read_measurement(mask, operator, limit), read_bounds(bounds, limit)
    console = Console(stderr=True, quiet=quiet)
    with removed_if_empty(output):
        prepare_output(output, overwrite)
        with progress_bar(console, "certify", 1, "node") as (callback, interrupted):
            result = prove(
                network, y, found, operator=measured, noise=noise, bounds=within, norm=norm, box=box, seed=seed,
                time_limit=time_limit, max_nodes=max_nodes, callback=callback, scale=scale,
            )  # fmt: skip
    single = isinstance(result, Certificate)
    certificates = Certificates([result]) if isinstance(result, Certificate) else result
    write_certificates(output, certificates, single)
    draw_bounds(certificates).savefig(output / "bounds.png", dpi=150)
    first = next((i for i, c in enumerate(certificates) if c.box is not None), None)
    if first is not None:
        name = f"observation {first}" if len(certificates) > 1 else ""
        draw_box(certificates[first], name).savefig(output / "box.png", dpi=150)
    if json:
        leave("certify", certify_document(certificates, output, interrupted.is_set()))
    print_certificates(Console(quiet=quiet or json), certificates, output)
    end(0, len(certificates), interrupted.is_set(), output / "certificates.jsonl")


@app.command(epilog=opt.EXAMPLES["inspect"])
def inspect(
    model: opt.Model,
    layers: opt.Layers = None,
    activation: opt.ActivationName = None,
    latent_shape: opt.LatentShape = None,
    max_bytes: opt.MaxBytes = None,
    samples: Annotated[int, typer.Option(min=1, help="Latent codes to sample.")] = 256,
    json: opt.Json = False,
) -> None:
    """Print the layers of MODEL, their expansion, and whether exact inversion can be expected."""
    from rich.console import Console
    from rich.markup import escape

    from unrelu._inspect import ASSUMED_EXPANSION
    from unrelu._inspect import inspect as look
    from unrelu.cli.documents import inspect_document

    network = network_of(model, layers, activation, latent_shape, max_bytes)
    seen = look(network, samples)
    if json:
        leave("inspect", inspect_document(model, network, seen))
        return
    title = f"{escape(model)}: latent {network.latent_shape} to output {network.output_shape}"
    expansion = f">= {ASSUMED_EXPANSION}"
    shown = table(title, "layer", "map", "activation", "in", "out", "out/in", expansion, "exact")
    for i, layer in enumerate(seen.layers, 1):
        expands = "yes" if layer.expands else "no"
        sizes = (str(layer.n_in), str(layer.n_out), f"{layer.expansion:.2f}", expands)
        shown.add_row(str(i), layer.name, layer.activation, *sizes, share(layer.determined, digits=0))
    console = Console(highlight=False)
    console.print(shown)
    console.print(
        f"out/in {expansion} is the paper's Assumption 1; exact: share of {seen.samples} sampled codes "
        "for which at least as many outputs as inputs tell their pre-activation\n"
    )
    console.print(f"[bold]identifiable[/bold]  {share(seen.identifiable, digits=0)} of sampled codes")
    console.print(f"[bold]expect[/bold]        {seen.verdict}")
    console.print(f"[bold]method[/bold]        {seen.recommended}")
    console.print(f"[bold]certify[/bold]       {seen.provable}")


@app.command(epilog=opt.EXAMPLES["run"])
def run(
    model: opt.Model,
    data: Annotated[
        str,
        typer.Argument(help="Observations: .npy, .npz, .h5, Zarr (a folder or any URL of fsspec), a folder of images."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; the same run goes on in it.")],
    method: opt.Method = "auto",
    option: opt.Options = None,
    noise: opt.Noise = None,
    bounds: opt.Bounds = None,
    norm: opt.Norm = None,
    mask: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_READING,
            help="0/1 masks, one for each observation, stored like DATA; or .npy with a single one.",
        ),
    ] = None,
    operator: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_READING,
            help="Matrix A (.npy, or .npz of scipy.sparse) that the outputs were measured with.",
        ),
    ] = None,
    prior: opt.Prior = 0.0,
    seed: opt.Seed = 0,
    time_limit: Annotated[
        float | None,
        typer.Option(
            help="Seconds for each chunk, looked at between steps; what is reached then depends on the machine."
        ),
    ] = None,
    chunk: Annotated[int, typer.Option(min=1, help="Observations inverted together; results depend on it.")] = 256,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine, of one thread each. [default: one a core]")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_WORKERS, help="Run on a Dask cluster: the address of its scheduler, tcp://HOST:8786"
        ),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(rich_help_panel=_WORKERS, help="Run on a Dask cluster of this machine: local:N")
    ] = None,
    array: Annotated[
        str | None, typer.Option(rich_help_panel=_READING, help="Name of the array in DATA, where there are several.")
    ] = None,
    size: opt.Size = None,
    scale: opt.Scale = None,
    results: Annotated[
        str | None,
        typer.Option(help="npy or zarr. [default: npy up to 100,000 observations without a cluster, else zarr]"),
    ] = None,
    layers: opt.Layers = None,
    activation: opt.ActivationName = None,
    latent_shape: opt.LatentShape = None,
    max_bytes: opt.MaxBytes = None,
    overwrite: Annotated[
        bool, typer.Option(help="Begin again: remove what the folder holds of an earlier run.")
    ] = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Invert all observations in DATA, so that it can be stopped, killed and started again.

    The folder gets the codes, the reconstructions and how each ended: codes.npy, reconstructions.npy and results.jsonl,
    or results.zarr; look at it with `unrelu status` and `unrelu report`.

    Run the same command again to go on: finished chunks are not computed again, and the results are the same bits.
    Ctrl-C finishes the chunks at work; a second Ctrl-C ends at once. An observation that cannot be read or inverted
    gets the status ERROR and does not stop the others; the exit status is then 1.
    """
    from unrelu.cli.run_progress import summary, watching
    from unrelu.datasets.small_files import read_bounds, read_measurement
    from unrelu.runs import run as run_all

    options, limit = options_of(option or []), limit_of(max_bytes)
    if scheduler and dask:
        raise InputError(f"--scheduler {scheduler} and --dask {dask} were both given; pass one of them")
    if dask and not dask.startswith("local:"):
        raise InputError(f"--dask {dask}: write local:N, such as local:2; --scheduler takes the address of a cluster")
    network = network_of(model, layers, activation, latent_shape, max_bytes)
    one, each = _masks(mask, network, limit)
    if mask and operator:
        raise InputError(f"--mask {mask} and --operator {operator} were both given; pass one of them")
    names = {"model": model, "command": shlex.join(["unrelu", *sys.argv[1:]])}
    if one is not None or operator is not None:
        names |= {"mask": os.path.abspath(mask)} if mask else {"operator": os.path.abspath(str(operator))}
    with watching(quiet, output) as watcher:
        found = run_all(
            network, data, output, method, max_bytes=limit,
            operator=one if one is not None else read_measurement(None, operator, limit),
            masks=each, noise=noise, bounds=read_bounds(bounds, limit), norm=norm, prior=prior, seed=seed,
            time_limit=time_limit, chunk=chunk, workers=workers, scheduler=scheduler or dask, array=array,
            size=size_of(size), scale=scale, results=results, overwrite=overwrite, callback=watcher, names=names,
            **options,
        )  # fmt: skip
        watcher.end(found)
    if json:
        leave("run", {**summary(found), "records": watcher.records, "warnings": watcher.warnings})
    messages = "results.jsonl" if found.manifest["results"] == "npy" and found.finished else "chunks.jsonl"
    end(found.failed, found.done, not found.finished, output / messages)


@app.command(epilog=opt.EXAMPLES["status"])
def status(output: Annotated[Path, typer.Argument(help="Folder of `unrelu run`.")], json: opt.Json = False) -> None:
    """Say how far a run is: what is computed, how the observations ended, which failed, and how to go on."""
    from unrelu.cli.run_progress import print_status, summary
    from unrelu.runs import open_run

    if json:
        leave("status", summary(open_run(output)))
    else:
        print_status(open_run(output))


@app.command(epilog=opt.EXAMPLES["report"])
def report(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of `unrelu run`, finished or not.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page. [default: OUT/report.html]")] = None,
    json: opt.Json = False,
) -> None:
    """Write what a run found as one HTML page that needs no network: counts, histograms, pictures, errors, speed."""
    from unrelu.report import write_report

    page = write_report(folder, output)
    if json:
        leave("report", {"page": str(page)})
    else:
        print(page)


def _masks(mask: str | None, network: Generator, max_bytes: int) -> tuple[Any, str | None]:
    """A single mask for all observations, or where there is one for each; None where there is no such mask."""
    from unrelu.datasets.small_files import read_measurement

    if mask is None or Path(mask).suffix.lower() not in (".npy", ".npz") or not Path(mask).is_file():
        return None, mask
    single = _shape(Path(mask), max_bytes) in (network.output_shape, (network.output_dim,))
    return (read_measurement(Path(mask), None, max_bytes), None) if single else (None, mask)


def _shape(mask: Path, max_bytes: int) -> tuple[int, ...]:
    """Of an array in a file; masks for a whole data set are not read to see that they are many."""
    from unrelu.datasets.small_files import read_observations
    from unrelu.runtime.file_reading import npy_header, opened

    if mask.suffix.lower() == ".npy":
        with opened(mask) as (stream, size):
            return npy_header(stream, size, str(mask)).shape
    return read_observations(mask, "masks", "mask", max_bytes).shape


@app.command(epilog=opt.EXAMPLES["demo"])
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the picture and the results.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of codes, digits, noise and starts, each a stream.")] = 2026,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
) -> None:
    """Invert noisy digits, methods side by side: tables, a picture and results.jsonl."""
    import numpy as np
    from rich.console import Console

    from unrelu.cli.demonstration import demo_document, run_demo
    from unrelu.datasets.result_folders import prepare_output

    prepare_output(output, overwrite)
    sections = run_demo(output, Console(quiet=quiet, stderr=json), seed)
    if json:
        leave("demo", {"output": str(output), **demo_document(sections)})
    codes = [code for section in sections for result in section.results.values() for code in result.z]
    failed = sum(not np.isfinite(code).all() for code in codes)
    end(failed, len(codes), False, output / "results.jsonl")


@app.command(epilog=opt.EXAMPLES["play"])
def play(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model file, or a name of the zoo. [default: all of the zoo, to choose from on the page]"
        ),
    ] = None,
    layers: opt.Layers = None,
    activation: opt.ActivationName = None,
    latent_shape: opt.LatentShape = None,
    scale: Annotated[
        str | None, typer.Option(help="LOW,HIGH: the values of black and white. [default: the scale of outputs]")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0 is any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in the default browser.")] = False,
    max_bytes: opt.MaxBytes = None,
    json: opt.Json = False,
) -> None:
    """Draw a picture on a page of this machine, hide parts of it, and see what a generator makes of it.

    The page is for this machine only: it is served on 127.0.0.1 and needs no network. Ctrl-C ends it.
    """
    import webbrowser

    from unrelu.playground import PictureGenerator, bundled, serving
    from unrelu.runtime.interrupts import interruptible

    generators = sorted(bundled(), key=lambda known: known.name != model)
    if model is not None and (generators[0].name != model or Path(model).exists()):
        network = network_of(model, layers, activation, latent_shape, max_bytes)
        generators.insert(0, PictureGenerator.of(Path(model).name, network, scale))
    print("preparing the first generator", file=sys.stderr)
    with serving(generators, port) as server, interruptible("stopping") as ended:
        where = sys.stderr if json else sys.stdout
        print(f"open {server.url} in a browser on this machine; Ctrl-C ends it", file=where, flush=True)
        if browser:
            webbrowser.open(server.url)
        ended.wait()
    if json:
        leave("play", {"url": server.url, "generators": [generator.name for generator in generators]})


def add_laboratory(app: typer.Typer) -> None:
    """The commands of the laboratory: entry points of ``unrelu-studies``. Without it they say how to get it."""
    found = {entry.name: entry for entry in entry_points(group="unrelu.commands")}
    for name in ("reproduce", "benchmark"):
        command = _loaded(found[name]) if name in found else None
        if command is not None:
            app.command()(command)
        else:
            app.command(name, hidden=True, context_settings={"ignore_unknown_options": True})(_absent)


def _loaded(entry: EntryPoint) -> Callable[..., Any] | None:
    """The command; None where the laboratory has left its entry point behind, or is not on the path."""
    try:
        command: Callable[..., Any] = entry.load()
    except ModuleNotFoundError as error:
        if error.name != entry.module.partition(".")[0]:
            raise
        return None
    return command


def _absent(context: typer.Context, words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Part of the laboratory, which is not installed."""
    raise MissingPackageError(
        f"`unrelu {context.info_name}` is part of the laboratory, which `pip install unrelu` leaves out: clone the "
        "repository and run `pip install -e . -e studies` there"
    )


add_laboratory(app)
