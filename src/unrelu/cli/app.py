"""The command line: ``unrelu invert``, ``run``, ``status``, ``certify``, ``inspect``, ``demo``, ``reproduce``...

Commands import what they use when they run, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from unrelu._version import __version__
from unrelu.cli.options import (
    ActivationName,
    LatentShape,
    Layers,
    MaskFile,
    MaxBytes,
    Method,
    Model,
    Noise,
    Norm,
    Observations,
    OperatorFile,
    Options,
    OutputFolder,
    Prior,
    Quiet,
    Scale,
)
from unrelu.cli.run_commands import report, run, status
from unrelu.cli.terminal import (
    end,
    limit_of,
    network_of,
    options_of,
    print_certificates,
    print_summary,
    progress_bar,
    read_codes,
    removed_if_empty,
)
from unrelu.errors import MissingPackageError

app = typer.Typer(
    name="unrelu",
    help="Invert deep ReLU generative models: find the latent code behind an observation, and say how good it is.",
    no_args_is_help=True,
    add_completion=False,
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


@app.command()
def invert(
    model: Model,
    data: Observations,
    output: OutputFolder,
    method: Method = "auto",
    option: Options = None,
    noise: Noise = None,
    norm: Norm = None,
    mask: MaskFile = None,
    operator: OperatorFile = None,
    prior: Prior = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    time_limit: Annotated[float | None, typer.Option(help="Seconds for the whole run.")] = None,
    scale: Scale = None,
    layers: Layers = None,
    activation: ActivationName = None,
    latent_shape: LatentShape = None,
    max_bytes: MaxBytes = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in an existing folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Find the latent codes of the observations in DATA and write them to a folder.

    The folder gets codes.npy, reconstructions.npy and results.jsonl (one line an observation). Ctrl-C stops the search
    and writes what was found; a second Ctrl-C ends at once.
    """
    import numpy as np
    from rich.console import Console

    from unrelu._invert import invert as find
    from unrelu.datasets import prepare_output, read_measurement, read_observations, write_result
    from unrelu.methods import make
    from unrelu.problem import Problem

    options = options_of(option or [])
    make(method, options)
    y = read_observations(data, max_bytes=limit_of(max_bytes))
    network = network_of(model, layers, activation, latent_shape, max_bytes)
    stated: dict[str, Any] = {
        "operator": read_measurement(mask, operator, limit_of(max_bytes)), "noise": noise, "norm": norm,
        "prior": prior, "seed": seed, "time_limit": time_limit, "scale": scale,
    }  # fmt: skip
    problem = Problem.build(network, y, **stated)
    prepare_output(output, overwrite)
    console = Console(stderr=True, quiet=quiet)
    with removed_if_empty(output), progress_bar(console, method, problem.size) as (callback, interrupted):
        result = find(network, y, method, callback=callback, **stated, **options)
    write_result(output, result)
    if not quiet:
        print_summary(Console(), result, output)
    failed = int(np.sum(~np.isfinite(np.atleast_2d(result.z)).all(axis=1)))
    end(failed, problem.size, interrupted.is_set(), output / "results.jsonl")


@app.command()
def certify(
    model: Model,
    data: Observations,
    output: OutputFolder,
    codes: Annotated[
        Path | None,
        typer.Option(help="Codes to certify: .npy, or a folder of `unrelu invert`. [default: found by auto]"),
    ] = None,
    noise: Annotated[
        str | None, typer.Option(help="uniform:A asks for a box of all codes with errors up to A; in units of the data")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l1 (default: that of the noise, else linf)")] = None,
    mask: MaskFile = None,
    operator: OperatorFile = None,
    box: Annotated[bool, typer.Option(help="The box of all codes that explain the observation.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the inversion.")] = 0,
    time_limit: Annotated[float, typer.Option(help="Seconds for each observation, without its inversion.")] = 10.0,
    max_nodes: Annotated[int, typer.Option(help="Relaxations for each observation.")] = 50_000,
    scale: Scale = None,
    layers: Layers = None,
    activation: ActivationName = None,
    latent_shape: LatentShape = None,
    max_bytes: MaxBytes = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in an existing folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Bound the smallest error over all codes, and prove the bounds.

    The folder gets certificate-N.json (one an observation, whose bounds can be verified without a solver),
    certificates.jsonl, codes.npy (the best codes), bounds.png and, of uniform noise, box.png. Ctrl-C stops the search
    and writes the bounds that were reached; a second Ctrl-C ends at once.
    """
    from rich.console import Console

    from unrelu._certify import certify as prove
    from unrelu.certification.certificate import Certificate, Certificates
    from unrelu.cli.certificate_plot import draw_bounds, draw_box
    from unrelu.datasets import prepare_output, read_measurement, read_observations, write_certificates

    y = read_observations(data, max_bytes=limit_of(max_bytes))
    found = read_codes(codes, max_bytes) if codes else None
    network = network_of(model, layers, activation, latent_shape, max_bytes)
    measured = read_measurement(mask, operator, limit_of(max_bytes))
    prepare_output(output, overwrite)
    console = Console(stderr=True, quiet=quiet)
    with removed_if_empty(output), progress_bar(console, "certify", 1, "node") as (callback, interrupted):
        result = prove(
            network, y, found, operator=measured, noise=noise, norm=norm, box=box, seed=seed, time_limit=time_limit,
            max_nodes=max_nodes, callback=callback, scale=scale,
        )  # fmt: skip
    single = isinstance(result, Certificate)
    certificates = Certificates([result]) if isinstance(result, Certificate) else result
    write_certificates(output, certificates, single)
    draw_bounds(certificates).savefig(output / "bounds.png", dpi=150)
    if any(c.box is not None for c in certificates):
        first = next(i for i, c in enumerate(certificates) if c.box is not None)
        name = f"observation {first}" if len(certificates) > 1 else ""
        draw_box(certificates[first], name).savefig(output / "box.png", dpi=150)
    if not quiet:
        print_certificates(Console(), certificates, output)
    end(0, len(certificates), interrupted.is_set(), output / "certificates.jsonl")


@app.command()
def inspect(
    model: Model,
    layers: Layers = None,
    activation: ActivationName = None,
    latent_shape: LatentShape = None,
    max_bytes: MaxBytes = None,
    samples: Annotated[int, typer.Option(min=1, help="Latent codes to sample.")] = 256,
) -> None:
    """Print the layers of MODEL, their expansion, and whether exact inversion can be expected."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from unrelu._inspect import inspect as look
    from unrelu._inspect import share
    from unrelu.theory import ASSUMED_EXPANSION

    network = network_of(model, layers, activation, latent_shape, max_bytes)
    seen = look(network, samples)
    title = f"{escape(model)}: latent {network.latent_shape} to output {network.output_shape}"
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
    console.print(f"[bold]certify[/bold]       {seen.provable}")


app.command()(run)
app.command()(status)
app.command()(report)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the picture and the results.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of codes, digits, noise and starts, each a stream.")] = 2026,
    overwrite: Annotated[bool, typer.Option(help="Replace the results in an existing folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Invert noisy digits, methods side by side: tables, a picture and results.jsonl."""
    import numpy as np
    from rich.console import Console

    from unrelu.cli.demonstration import run_demo
    from unrelu.datasets import prepare_output

    prepare_output(output, overwrite)
    results = [
        result for section in run_demo(output, Console(quiet=quiet), seed) for result in section.results.values()
    ]
    codes = [code for result in results for code in result.z]
    failed = sum(not np.isfinite(code).all() for code in codes)
    end(failed, len(codes), False, output / "results.jsonl")


def add_laboratory(app: typer.Typer) -> None:
    """The commands of the laboratory: entry points of ``unrelu-studies``. Without it they say how to get it."""
    found = {entry.name: entry for entry in entry_points(group="unrelu.commands")}
    for name in ("reproduce", "benchmark"):
        if name in found:
            app.command()(found[name].load())
        else:
            app.command(name, hidden=True, context_settings={"ignore_unknown_options": True})(_absent)


def _absent(context: typer.Context, words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Part of the laboratory, which is not installed."""
    raise MissingPackageError(
        f"`unrelu {context.info_name}` is part of the laboratory, which `pip install unrelu` leaves out: clone the "
        "repository and run `pip install -e . -e studies` there"
    )


add_laboratory(app)
