"""``unrelu run``, ``unrelu status`` and ``unrelu report``: whole data sets."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unrelu.cli.options import (
    ActivationName,
    LatentShape,
    Layers,
    MaxBytes,
    Method,
    Model,
    Noise,
    Norm,
    Options,
    Prior,
    Quiet,
    Scale,
)
from unrelu.cli.terminal import end, limit_of, network_of, options_of
from unrelu.errors import InputError

if TYPE_CHECKING:
    from unrelu.models.generator import Generator

# Groups of options in the help.
READING, WORKERS = "What is read", "Who computes"


def run(
    model: Model,
    data: Annotated[
        str,
        typer.Argument(help="Observations: .npy, .npz, .h5, Zarr (a folder or any URL of fsspec), a folder of images."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; the same run goes on in it.")],
    method: Method = "auto",
    option: Options = None,
    noise: Noise = None,
    norm: Norm = None,
    mask: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=READING,
            help="0/1 masks, one for each observation, stored like DATA; or .npy with a single one.",
        ),
    ] = None,
    operator: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=READING,
            help="Matrix A (.npy, or .npz of scipy.sparse) that the outputs were measured with.",
        ),
    ] = None,
    prior: Prior = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
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
            rich_help_panel=WORKERS, help="Run on a Dask cluster: the address of its scheduler, tcp://HOST:8786"
        ),
    ] = None,
    dask: Annotated[
        str | None, typer.Option(rich_help_panel=WORKERS, help="Run on a Dask cluster of this machine: local:N")
    ] = None,
    array: Annotated[
        str | None, typer.Option(rich_help_panel=READING, help="Name of the array in DATA, where there are several.")
    ] = None,
    size: Annotated[str | None, typer.Option(rich_help_panel=READING, help="Resize images to HEIGHT,WIDTH.")] = None,
    scale: Scale = None,
    results: Annotated[
        str | None,
        typer.Option(help="npy or zarr. [default: npy up to 100,000 observations without a cluster, else zarr]"),
    ] = None,
    layers: Layers = None,
    activation: ActivationName = None,
    latent_shape: LatentShape = None,
    max_bytes: MaxBytes = None,
    overwrite: Annotated[
        bool, typer.Option(help="Begin again: remove what the folder holds of an earlier run.")
    ] = False,
    quiet: Quiet = False,
    json: Annotated[
        bool, typer.Option("--json", help="A JSON line for each chunk on standard output, for scripts.")
    ] = False,
) -> None:
    """Invert all observations in DATA, so that it can be stopped, killed and started again.

    The folder gets the codes, the reconstructions and how each ended: codes.npy, reconstructions.npy and results.jsonl,
    or results.zarr; look at it with `unrelu status` and `unrelu report`.

    Run the same command again to go on: finished chunks are not computed again, and the results are the same bits.
    Ctrl-C finishes the chunks at work; a second Ctrl-C ends at once. An observation that cannot be read or inverted
    gets the status ERROR and does not stop the others; the exit status is then 1.
    """
    from unrelu.cli.run_progress import watching
    from unrelu.datasets.small_files import read_measurement
    from unrelu.runs import run as run_all

    options = options_of(option or [])
    if scheduler and dask:
        raise InputError(f"--scheduler {scheduler} and --dask {dask} were both given; pass one of them")
    if dask and not dask.startswith("local:"):
        raise InputError(f"--dask {dask}: write local:N, such as local:2; --scheduler takes the address of a cluster")
    network = network_of(model, layers, activation, latent_shape, max_bytes)
    one, each = _masks(mask, network, limit_of(max_bytes))
    if mask and operator:
        raise InputError(f"--mask {mask} and --operator {operator} were both given; pass one of them")
    names = {"model": model, "command": shlex.join(["unrelu", *sys.argv[1:]])}
    if one is not None or operator is not None:
        names |= {"mask": os.path.abspath(mask)} if mask else {"operator": os.path.abspath(str(operator))}
    with watching(quiet, json, output) as watcher:
        found = run_all(
            network, data, output, method, max_bytes=limit_of(max_bytes),
            operator=one if one is not None else read_measurement(None, operator, limit_of(max_bytes)),
            masks=each, noise=noise, norm=norm, prior=prior, seed=seed, time_limit=time_limit, chunk=chunk,
            workers=workers, scheduler=scheduler or dask, array=array, size=_size(size), scale=scale, results=results,
            overwrite=overwrite, watch=watcher, names=names, **options,
        )  # fmt: skip
        watcher.end(found)
    messages = "results.jsonl" if found.manifest["results"] == "npy" and found.finished else "chunks.jsonl"
    end(found.failed, found.done, not found.finished, output / messages)


def status(
    output: Annotated[Path, typer.Argument(help="Folder of `unrelu run`.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON, for scripts.")] = False,
) -> None:
    """Say how far a run is: what is computed, how the observations ended, which failed, and how to go on."""
    from unrelu.cli.run_progress import print_status
    from unrelu.runs import open_run

    print_status(open_run(output), json)


def report(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of `unrelu run`, finished or not.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page. [default: OUT/report.html]")] = None,
) -> None:
    """Write what a run found as one HTML page that needs no network: counts, histograms, pictures, errors, speed."""
    from unrelu.report import write_report

    print(write_report(folder, output))


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


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        height, width = map(int, text.split(","))
    except ValueError:
        raise InputError(f"--size {text!r} is not HEIGHT,WIDTH; pass two whole numbers such as 28,28") from None
    return height, width
