"""The command line: ``unrelu invert``, ``run``, ``status``, ``certify``, ``inspect``, ``demo``, ``reproduce``...

Commands import their dependencies when they run, so that ``unrelu --help`` does not wait for PyTorch.
"""

from __future__ import annotations

import os
import shlex
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import unrelu
from unrelu.cli import options as opt
from unrelu.cli._signatures import command
from unrelu.cli.json_output import counted, leave
from unrelu.cli.terminal import UNMIXED, end, options_of, progress_bar, removed_if_empty, show, size_of
from unrelu.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from unrelu.models.generator import Generator

app = typer.Typer(
    name="unrelu",
    help="Invert deep ReLU generative models: find the latent code behind an observation, and say how good it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"unrelu {unrelu.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# The times in the examples are processor times of a fresh process on two server cores, with compiled kernels in the
# cache. Most of it is importing libraries. For `run`, two workers share it.
@command(
    app,
    ("_invert.py", "invert", "method noise norm sequence seed time_limit scale"),
    examples=(
        "mnist-relu photo.png -o out.png -- a picture of 28 x 28 pixels, 6 s",
        "mnist-relu digits.npy -o out --noise gaussian:0.1 -- 100 digits (100, 784), 8 s",
        "mnist-dcgan photo.png -o out.png --noise gaussian:0.1 --json -- for a script, 9 s",
    ),
)
def invert(
    model: opt.Model,
    reading: opt.Reading,
    data: Annotated[
        Path,
        typer.Argument(help="Observations: a picture (.png, .jpg), or a .npy or .npz file, one or a batch (B, ...)."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the results, or a picture (.png, .jpg) of one; must not exist."
        ),
    ],
    option: opt.Options = None,
    bounds: opt.Bounds = None,
    prior: opt.Prior = None,
    mask: opt.MaskFile = None,
    operator: opt.OperatorFile = None,
    size: opt.Size = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
    **stated: Any,
) -> None:
    """Find the latent codes of the observations in DATA: from a picture to a picture, or from arrays to a folder.

    The folder gets codes.npy, reconstructions.npy and results.jsonl (one line per observation). With -o out.png the
    reconstruction of one observation is written as a picture. The values of a picture are mapped to the generator's
    scale. Ctrl-C stops the search and writes the results so far; a second Ctrl-C ends at once.
    """
    import numpy as np

    from unrelu.cli._picture_files import is_picture
    from unrelu.cli._picture_inversion import picture_writer, read_given
    from unrelu.cli.argument_files import read_bounds, read_measurement, read_noise_model, read_prior
    from unrelu.cli.result_folders import prepare_output, records, write_result
    from unrelu.search.sequence import check_sequence

    options, method, limit = options_of(option), stated.pop("method"), reading.limit
    chosen = unrelu.methods.make(method, options)
    network = reading.network(model)
    given = read_given(data, network, size_of(size), stated["scale"], operator is not None, limit)
    stated |= {
        "operator": read_measurement(mask, operator, limit), "bounds": read_bounds(bounds, limit),
        "prior": read_prior(prior, limit) or 0.0, "scale": given.scale,
        "noise": read_noise_model(stated["noise"], limit),
    }  # fmt: skip
    problem = unrelu.Problem.build(network, given.y, **{n: v for n, v in stated.items() if n != "sequence"})
    unrelu.methods.refuse(chosen, problem)
    check_sequence(stated["sequence"], chosen, problem, None)
    write = picture_writer(output, given, problem.size, network, overwrite) if is_picture(output) else None
    with removed_if_empty(output):
        if write is None:
            prepare_output(output, overwrite)
        with progress_bar(quiet, method, problem.size) as (callback, interrupted):
            result = unrelu.invert(network, given.y, method, callback=callback, **stated, **options)
    codes = result.z[None] if problem.single else result.z
    failed = int((~np.isfinite(codes.reshape(problem.size, -1)).all(axis=1)).sum())
    if json:
        rows = [{**row, "z": z} for row, z in zip(records(result, given.names), codes, strict=True)]
        document = {
            "output": output, "method": result.method, "size": problem.size,
            "success": int(np.sum(result.success)), "failed": failed, "counts": counted(rows),
            "interrupted": interrupted.is_set(), "seconds": result.problem.control.elapsed(), "observations": rows,
        }  # fmt: skip
        leave("invert", document)
    if write is None:
        write_result(output, result, given.names)
    written = write(result) if write else f"written to {output}/: codes.npy reconstructions.npy results.jsonl"
    show(quiet or json, given.description, result, written)
    end(failed, problem.size, interrupted.is_set(), None if write else output / "results.jsonl")


@command(
    app,
    ("_certify.py", "certify", "noise norm box max_nodes seed"),
    ("_invert.py", "invert", "scale"),
    examples=("mnist-relu digit.npy -o proofs --noise uniform:0.1 -- a digit (784,), 8 s and at most 10 more",),
)
def certify(
    model: opt.Model,
    reading: opt.Reading,
    data: opt.Observations,
    output: opt.OutputFolder,
    codes: Annotated[
        Path | None,
        typer.Option(help="Codes to certify: .npy, or a folder of `unrelu invert` (default: found by auto)."),
    ] = None,
    bounds: opt.Bounds = None,
    mask: opt.MaskFile = None,
    operator: opt.OperatorFile = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for each observation, without its inversion.")] = 10.0,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
    **stated: Any,
) -> None:
    """Bound the smallest error over all codes, and prove the bounds.

    The folder gets certificate-N.npz (one per observation, with bounds that can be verified without a solver),
    certificates.jsonl, codes.npy (the best codes), bounds.png and, for uniform noise, box.png. Ctrl-C stops the search
    and writes the bounds so far; a second Ctrl-C ends at once.
    """
    from unrelu.cli.argument_files import read_bounds, read_measurement, read_noise_model, read_observations
    from unrelu.cli.result_folders import certificate_records, prepare_output, write_certificates
    from unrelu.report.certificates import draw_bounds, draw_box

    limit = reading.limit
    y = read_observations(data, max_bytes=limit)
    found = None
    if codes:
        found = read_observations(codes / "codes.npy" if codes.is_dir() else codes, "codes", "codes", limit)
    network = reading.network(model)
    stated |= {
        "operator": read_measurement(mask, operator, limit), "bounds": read_bounds(bounds, limit),
        "noise": read_noise_model(stated["noise"], limit),
    }  # fmt: skip
    with removed_if_empty(output):
        prepare_output(output, overwrite)
        with progress_bar(quiet, "certify", 1, "node") as (callback, interrupted):
            result = unrelu.certify(network, y, found, time_limit=time_limit, callback=callback, **stated)
    single = isinstance(result, unrelu.Certificate)
    certificates = unrelu.Certificates([result]) if isinstance(result, unrelu.Certificate) else result
    write_certificates(output, certificates, single)
    draw_bounds(certificates).savefig(output / "bounds.png", dpi=150)
    first = next((i for i, c in enumerate(certificates) if c.box is not None), None)
    if first is not None:
        name = f"observation {first}" if len(certificates) > 1 else ""
        draw_box(certificates[first], name).savefig(output / "box.png", dpi=150)
    if json:
        rows = [{**row, "z": c.z} for row, c in zip(certificate_records(certificates), certificates, strict=True)]
        document = {"output": output, "size": len(rows), "counts": counted(rows), "observations": rows}
        leave("certify", document | {"interrupted": interrupted.is_set()})
    among = "all codes" if certificates[0].bounds is None else "codes within the bounds"
    title = f"Smallest {certificates[0].norm} error over {among}"
    written = f"written to {output}/: certificate-*.npz certificates.jsonl codes.npy and pictures"
    show(quiet or json, title, result, written)
    end(0, len(certificates), interrupted.is_set(), None)


@command(
    app,
    ("_posterior.py", "posterior", "noise draws chains seed time_limit"),
    ("_invert.py", "invert", "scale"),
    examples=("mnist-relu digit.npy -o draws --noise gaussian:0.1 -- a digit (784,), 6 s",),
)
def posterior(
    model: opt.Model,
    reading: opt.Reading,
    data: Annotated[
        Path,
        typer.Argument(help="Observations: a picture (.png, .jpg), or a .npy or .npz file, one or a batch (B, ...)."),
    ],
    output: opt.OutputFolder,
    bounds: opt.Bounds = None,
    prior: opt.CodePrior = None,
    mask: opt.MaskFile = None,
    operator: opt.OperatorFile = None,
    size: opt.Size = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
    **stated: Any,
) -> None:
    """Draw codes from their posterior distribution: what else the observations in DATA could be.

    The folder gets posterior.npz (all draws, for unrelu.load_posterior), results.jsonl (one line per observation: its
    status, mean, standard deviation, 90% interval and modes) and posterior.png. The exit status is 1 if the chains of
    an observation have not mixed. Ctrl-C stops the sampling and writes the draws so far; a second Ctrl-C ends at once.
    """
    from unrelu.cli._picture_inversion import read_given
    from unrelu.cli.argument_files import read_bounds, read_measurement, read_noise_model, read_prior
    from unrelu.cli.result_folders import posterior_records, prepare_output, write_posterior

    limit = reading.limit
    network = reading.network(model)
    given = read_given(data, network, size_of(size), stated["scale"], operator is not None, limit)
    stated |= {
        "operator": read_measurement(mask, operator, limit), "bounds": read_bounds(bounds, limit),
        "prior": read_prior(prior, limit), "scale": given.scale, "noise": read_noise_model(stated["noise"], limit),
    }  # fmt: skip
    with removed_if_empty(output):
        prepare_output(output, overwrite)
        with progress_bar(quiet, "posterior", 1) as (callback, interrupted):
            result = unrelu.posterior(network, given.y, callback=callback, **stated)
    rows = posterior_records(result, given.names)
    mixed = sum(row["status"] == unrelu.Status.MIXED.name for row in rows)
    if json:
        document = {
            "output": output, "size": len(rows), "mixed": mixed, "counts": counted(rows),
            "interrupted": interrupted.is_set(), "seconds": result.problem.control.elapsed(), "observations": rows,
        }  # fmt: skip
        leave("posterior", document)
    write_posterior(output, result, rows)
    show(quiet or json, given.description, result, f"written to {output}/: posterior.npz results.jsonl posterior.png")
    end(len(rows) - mixed, len(rows), interrupted.is_set(), output / "results.jsonl", UNMIXED)


@command(app, ("_inspect.py", "inspect", "samples"), examples=("mnist-relu -- a 20-60-784 network, 6 s",))
def inspect(model: opt.Model, reading: opt.Reading, json: opt.Json = False, **stated: Any) -> None:
    """Print the layers of MODEL, their expansion, and whether exact inversion can be expected."""
    from dataclasses import asdict

    network = reading.network(model)
    found = unrelu.inspect(network, **stated)
    if json:
        shapes = {"latent_shape": network.latent_shape, "output_shape": network.output_shape}
        leave("inspect", {"model": model, **shapes, **asdict(found)})
    show(json, f"{model}: latent {network.latent_shape} to output {network.output_shape}", str(found))


@command(
    app,
    ("_invert.py", "invert", "method noise norm scale"),
    ("runs/running.py", "run", "posterior seed time_limit chunk workers scheduler array results overwrite"),
    examples=(
        "mnist-relu digits.npy -o out --noise gaussian:0.1 -- 1,000 digits (1000, 784), 30 s; the same line resumes "
        "after a stop",
    ),
)
def run(
    model: opt.Model,
    reading: opt.Reading,
    data: Annotated[
        str,
        typer.Argument(help="Observations: .npy, .npz, .h5, Zarr (a folder or any URL of fsspec), a folder of images."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; the same run resumes in it.")],
    option: opt.Options = None,
    bounds: opt.Bounds = None,
    prior: opt.Prior = None,
    mask: Annotated[
        str | None,
        typer.Option(help="0/1 masks, one for each observation, stored like DATA; or .npy with a single one."),
    ] = None,
    operator: opt.OperatorFile = None,
    dask: Annotated[str | None, typer.Option(help="Run on a Dask cluster of this machine: local:N")] = None,
    size: opt.Size = None,
    quiet: opt.Quiet = False,
    json: opt.Json = False,
    **stated: Any,
) -> None:
    """Invert all observations in DATA, in a run that can be stopped, killed and resumed.

    The folder gets the codes, the reconstructions and their statuses: codes.npy, reconstructions.npy and results.jsonl,
    or results.zarr. `unrelu status` and `unrelu report` show them.

    Run the same command again to resume: finished chunks are kept, and the results are identical to the last bit.
    Ctrl-C finishes the running chunks; a second Ctrl-C ends at once. An observation that cannot be read or inverted
    gets the status ERROR and does not stop the others; the exit status is then 1, as where a posterior has not mixed.
    """
    from unrelu.cli.argument_files import read_bounds, read_measurement, read_noise_model, read_prior
    from unrelu.cli.run_progress import summary, watching

    options, limit, scheduler = options_of(option), reading.limit, stated.pop("scheduler")
    if scheduler and dask:
        raise InputError(f"--scheduler {scheduler} and --dask {dask} were both given; pass one of them")
    if dask and not dask.startswith("local:"):
        raise InputError(f"--dask {dask}: write local:N, such as local:2; --scheduler takes the address of a cluster")
    network = reading.network(model)
    stated["noise"] = read_noise_model(stated["noise"], limit)
    one = Path(mask) if mask and _is_one(Path(mask), network, limit) else None
    names = {"model": model, "command": shlex.join(["unrelu", *sys.argv[1:]])}
    if one or operator:
        names["mask" if one else "operator"] = os.path.abspath(str(one or operator))
    with watching(quiet, output) as watcher:
        found = unrelu.run(
            network, data, output, operator=read_measurement(one, operator, limit), masks=None if one else mask,
            bounds=read_bounds(bounds, limit), prior=read_prior(prior, limit) or 0.0, scheduler=scheduler or dask,
            size=size_of(size), max_bytes=limit, callback=watcher, names=names, **stated, **options,
        )  # fmt: skip
        watcher.end(found)
    if json:
        leave("run", {**summary(found), "records": watcher.records, "warnings": watcher.warnings})
    messages = "results.jsonl" if found.manifest["results"] == "npy" and found.finished else "chunks.jsonl"
    end(found.failed, found.done, not found.finished, output / messages)
    end(found.done - found.mixed if found.mixed is not None else 0, found.done, False, output / messages, UNMIXED)


def _is_one(mask: Path, network: Generator, max_bytes: int) -> bool:
    """Whether a file holds a single mask. Only the header of a ``.npy`` file is read, as it may hold many masks."""
    from unrelu.cli.argument_files import read_observations
    from unrelu.runtime.file_reading import npy_header, opened

    if mask.suffix.lower() not in (".npy", ".npz") or not mask.is_file():
        return False
    if mask.suffix.lower() == ".npz":
        shape = read_observations(mask, "masks", "mask", max_bytes).shape
    else:
        with opened(mask) as (stream, size):
            shape = npy_header(stream, size, str(mask)).shape
    return shape in (network.output_shape, (network.output_dim,))


@command(app, examples=("out -- a run of 1,000 observations, 5 s",))
def status(output: Annotated[Path, typer.Argument(help="Folder of `unrelu run`.")], json: opt.Json = False) -> None:
    """Show the progress of a run: finished chunks, statuses, failures, and how to resume it."""
    from unrelu.cli.run_progress import status_lines, summary

    found = unrelu.open_run(output)
    if json:
        leave("status", summary(found))
    show(json, *status_lines(found))


@command(app, examples=("out -- a run of 1,000 observations, into out/report.html, 5 s",))
def report(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of `unrelu run`, finished or not.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page (default: OUT/report.html).")] = None,
    json: opt.Json = False,
) -> None:
    """Write the results of a run as an offline HTML page: counts, histograms, pictures, errors, speed."""
    from unrelu.report import write_report

    page = write_report(folder, output)
    if json:
        leave("report", {"page": page})
    show(json, page)


@command(app, examples=("-o demo -- 62 digits by up to eight methods, into demo/grid.png, 90 s",))
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

    from unrelu.cli._demonstration import demo_document, run_demo
    from unrelu.cli.result_folders import prepare_output

    prepare_output(output, overwrite)
    sections = run_demo(output, Console(quiet=quiet, stderr=json), seed)
    if json:
        leave("demo", {"output": output, **demo_document(sections)})
    codes = [code for section in sections for result in section.results.values() for code in result.z]
    failed = sum(not np.isfinite(code).all() for code in codes)
    end(failed, len(codes), False, output / "results.jsonl")


@command(app, examples=("decoder.onnx -- a decoder of pictures beside the bundled ones, 7 s",))
def play(
    reading: opt.Reading,
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model file, or a name of the zoo (default: all of the zoo, to choose from on the page)."
        ),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="LOW,HIGH: the values of black and white (default: the scale of outputs).")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0 is any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in the default browser.")] = False,
    json: opt.Json = False,
) -> None:
    """Open a local page to draw a picture, hide parts of it, and see the nearest picture that a generator draws.

    The page is for this machine only: Gradio serves it on 127.0.0.1, and it needs no network. Ctrl-C ends it.
    """
    import webbrowser

    from unrelu.playground import PictureGenerator, bundled, serving
    from unrelu.runtime.interrupts import interruptible

    generators = sorted(bundled(), key=lambda known: known.name != model)
    if model is not None and (generators[0].name != model or Path(model).exists()):
        generators.insert(0, PictureGenerator.of(Path(model).name, reading.network(model), scale))
    with serving(generators, port) as url, interruptible("stopping") as ended:
        where = sys.stderr if json else sys.stdout
        print(f"open {url} in a browser on this machine; Ctrl-C ends it", file=where, flush=True)
        if browser:
            webbrowser.open(url)
        ended.wait()
    if json:
        leave("play", {"url": url, "generators": [generator.name for generator in generators]})


def add_studies(app: typer.Typer) -> None:
    """Add the commands of ``unrelu-studies``, which are its entry points. If it is missing, they say how to get it."""
    found = {entry.name: entry for entry in entry_points(group="unrelu.commands")}
    for name in ("reproduce", "benchmark"):
        try:
            app.command(name)(found[name].load())
        except (KeyError, ModuleNotFoundError):  # not installed, or its folder is gone
            app.command(name, hidden=True, context_settings={"ignore_unknown_options": True})(_absent)


def _absent(context: typer.Context, words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Part of the studies, which are not installed."""
    raise MissingPackageError(
        f"`unrelu {context.info_name}` is part of the studies, which `pip install unrelu` leaves out: clone the "
        "repository and run `pip install -e . -e studies` there"
    )


add_studies(app)
