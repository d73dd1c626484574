"""The commands. They import what they need when they run, so that ``unrelu --help`` does not wait for PyTorch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import is_dataclass, replace
from importlib.metadata import entry_points
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import unrelu
from unrelu.cli import options as opt
from unrelu.cli.terminal import Interrupted, console_of, end, finish, is_picture, leave, refuse_existing, show, unmixed
from unrelu.errors import UnreluError

_INVERT, _LOOK, _OTHERS = "Invert", "Look at results", "Others"
app = typer.Typer(
    name="unrelu",
    help="Invert deep ReLU generative models: find the latent code behind an observation, and say how good it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def options_in(message: str, parameters: Sequence[Any]) -> str:
    """Return a line with the options for the arguments, such as ``noise=``, that a message of the library mentions."""
    words = {word.partition("=")[0].rpartition("(")[2].strip("`'\"") for word in message.split() if "=" in word}
    named = [p.opts[0] for p in parameters if p.name in words and p.opts[0].startswith("-")]
    if any(p.name == "model_option" for p in parameters):
        named += [f"--model-option {name}=" for name in opt.MODEL_OPTIONS if name in words]
    missing = [option for option in named if option not in message]
    return f"On the command line: {', '.join(missing)}" if missing else ""


class _Command(TyperCommand):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UnreluError as error:
            if line := options_in(str(error), self.params):
                error.add_note(line)
            raise
        except KeyboardInterrupt as error:  # Typer would turn it into an exit status without a document
            raise Interrupted from error


def _command(panel: str, example: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command to a panel of the help. Its docstring becomes paragraphs that Typer wraps."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        name = example.partition(" ")[0]
        paragraphs = (" ".join(part.split()) for part in (function.__doc__ or "").split("\n\n"))
        epilog, help = f"Example: unrelu {example}", "\n\n".join(paragraphs)
        return app.command(name, cls=_Command, rich_help_panel=panel, help=help, epilog=epilog)(_flat(function))

    return add


def _flat(function: Callable[..., None]) -> Callable[..., None]:
    """Replace parameters whose types are classes of :mod:`unrelu.cli.options` by their fields, which Typer reads."""
    groups: dict[str, tuple[Any, list[str]]] = {}
    flat = []
    for parameter in signature(function, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            kind: Any = parameter.annotation
            own = list(signature(kind, eval_str=True).parameters.values())
            groups[parameter.name] = kind, [each.name for each in own]
            flat += own
        else:
            flat.append(parameter)

    def call(**given: Any) -> None:
        made = {name: kind(**{each: given.pop(each) for each in own}) for name, (kind, own) in groups.items()}
        function(**made, **given)

    flat = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in flat]
    call.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return call


def _version(wanted: bool) -> None:
    if wanted:
        show(False, f"unrelu {unrelu.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@_command(_INVERT, "invert mnist-relu photo.png -o out.png")
def invert(
    model: opt.Model,
    data: opt.Observations,
    asked: opt.Question,
    reading: opt.Reading,
    folder: opt.Folder,
    size: opt.Size = None,
    method: opt.MethodName = "auto",
    option: opt.MethodOption = None,
    norm: opt.Norm = None,
    seed: opt.Seed = 0,
    time_limit: opt.TimeLimit = None,
    device: opt.Device = None,
) -> None:
    """Find the latent code behind a picture, or those behind arrays of observations.

    The folder gets codes.npy, reconstructions.npy and results.jsonl (one line per observation). With -o out.png the
    reconstruction of one observation is written as a picture. Ctrl-C stops the search and writes the results so far; a
    second Ctrl-C ends at once.
    """
    refuse_existing(folder.output, folder.overwrite)
    import numpy as np

    from unrelu.cli._picture_inversion import check_picture, read_given, write_picture
    from unrelu.cli.argument_files import options_of, read_model, read_question, size_of
    from unrelu.cli.result_folders import answering, records, write_result

    output, options = folder.output, options_of(option)
    network = read_model(model, reading, device)
    given = read_given(data, network, size_of(size), asked.scale)
    question = read_question(asked)
    ends = check_picture(output, given, network) if is_picture(output) else None
    with answering(folder, method, made=ends is None) as (callback, interrupted):
        result = unrelu.invert(
            network, given.y, method, norm=norm, seed=seed, time_limit=time_limit, scale=given.scale,
            callback=callback, **question, **options,
        )  # fmt: skip
    rows = records(result, given.names)
    codes = [result.z] if result.problem.single else list(result.z)
    failed = sum(not np.isfinite(code).all() for code in codes)
    if ends is None:
        write_result(output, result, rows)
        written = f"written to {output}/: codes.npy reconstructions.npy results.jsonl"
    else:
        written = write_picture(output, result.reconstruction, given.shape, ends)
    found = [{**row, "z": code} for row, code in zip(rows, codes, strict=True)]
    where = "" if ends else f", their messages are in {output / 'results.jsonl'}"
    problem = f"{failed} of {len(rows)} observations failed{where}" if failed else ""
    counted = {"success": int(np.sum(result.success)), "failed": failed}
    finish("invert", folder, interrupted, found, given.description, result, written, problem=problem, **counted)


@_command(_INVERT, "run mnist-relu digits.npy -o out --noise gaussian:0.1")
def run(
    model: opt.Model,
    data: opt.DataSet,
    output: Annotated[
        Path, opt.in_output("--output", "-o", help="Folder for the results; the same run resumes in it.")
    ],
    asked: opt.Question,
    reading: opt.Reading,
    ending: opt.OutputOptions,
    size: opt.Size = None,
    array: opt.ArrayName = None,
    method: opt.MethodName = "auto",
    option: opt.MethodOption = None,
    norm: opt.Norm = None,
    posterior: opt.Posterior = 0,
    seed: opt.Seed = 0,
    time_limit: opt.ChunkTimeLimit = None,
    chunk: opt.Chunk = None,
    workers: opt.Workers = None,
    device: opt.Device = None,
    export: opt.Export = None,
) -> None:
    """Invert a whole data set, in a run that can be stopped and resumed.

    Run the same command again to resume: finished chunks are kept, and the results are identical to the last bit.
    Ctrl-C finishes the running chunks; a second Ctrl-C ends at once. An observation that cannot be read or inverted
    gets the status ERROR and does not stop the others; the exit status is then 1, as where a posterior has not mixed.
    `unrelu status` and `unrelu report` show the results.
    """
    refuse_existing(output, ending.overwrite, resumes=True)
    from unrelu.cli.argument_files import options_of, read_masks, read_model, read_question, size_of
    from unrelu.cli.run_progress import check_exports, export_columns, outcome_lines, problems, summary, watching

    check_exports(export or ())
    options, network = options_of(option), read_model(model, reading, device)
    question = read_question(replace(asked, mask=None)) | read_masks(asked, network)
    with watching(ending.quiet) as watcher:
        found = unrelu.run(
            network, data, output, method, norm=norm, posterior=posterior, seed=seed, time_limit=time_limit,
            chunk=chunk, workers=workers, array=array, size=size_of(size), scale=asked.scale, callback=watcher,
            overwrite=ending.overwrite, names={"model": model, "command": shlex.join(["unrelu", *sys.argv[1:]])},
            **question, **options,
        )  # fmt: skip
    stopped = f"stopped: {len(found.records)} of {found.chunks} chunks are finished; run the same command again"
    watcher.print(*(outcome_lines(found) if found.finished else [f"{stopped} to resume"]))
    if found.finished:
        export_columns(found, export or ())
    if ending.json:
        leave("run", {**summary(found), "records": watcher.records, "warnings": watcher.warnings})
    end(not found.finished, *problems(found))


@_command(_INVERT, "posterior mnist-relu digit.npy -o draws --noise gaussian:0.1")
def posterior(
    model: opt.Model,
    data: opt.Observations,
    asked: opt.Question,
    reading: opt.Reading,
    folder: opt.Folder,
    size: opt.Size = None,
    draws: opt.Draws = 1000,
    seed: opt.Seed = 0,
    time_limit: opt.TimeLimit = None,
    device: opt.Device = None,
) -> None:
    """Draw codes from their posterior: what else the observations could be.

    The folder gets posterior.npz (all draws, for unrelu.load_posterior), results.jsonl (one line per observation: its
    status, mean, standard deviation, 90% interval and modes) and posterior.png. The exit status is 1 if the chains of
    an observation have not mixed. Ctrl-C stops the sampling and writes the draws so far; a second Ctrl-C ends at once.
    """
    refuse_existing(folder.output, folder.overwrite)
    from unrelu.cli._picture_inversion import read_given
    from unrelu.cli.argument_files import read_model, read_question, size_of
    from unrelu.cli.result_folders import answering, posterior_records, write_posterior

    output, network = folder.output, read_model(model, reading, device)
    given = read_given(data, network, size_of(size), asked.scale)
    question = read_question(asked)
    with answering(folder, "posterior") as (callback, interrupted):
        result = unrelu.posterior(
            network, given.y, draws=draws, seed=seed, time_limit=time_limit, scale=given.scale, callback=callback,
            **question,
        )  # fmt: skip
    rows = posterior_records(result, given.names)
    write_posterior(output, result, rows)
    statuses = [row["status"] for row in rows]
    written = f"written to {output}/: posterior.npz results.jsonl posterior.png"
    finish(
        "posterior", folder, interrupted, rows, given.description, result, written,
        problem=unmixed(statuses, str(output / "results.jsonl")), mixed=statuses.count("MIXED"),
    )  # fmt: skip


@_command(_INVERT, "profile emulator.npz spectrum.npy -o out --along h=0.6,0.8,15 --noise gaussian:0.1")
def profile(
    model: opt.Model,
    data: opt.Observations,
    along: opt.Along,
    asked: opt.Question,
    reading: opt.Reading,
    folder: opt.Folder,
    seed: opt.Seed = 0,
    time_limit: opt.TimeLimit = None,
    device: opt.Device = None,
) -> None:
    """Find the best objective with a coordinate held at each of several values: a profile likelihood.

    The folder gets results.jsonl (a line for each value), codes.npy (the codes, on the grid of values) and, where the
    noise has a density, profile.png. Ctrl-C stops the search and writes the values so far.
    """
    refuse_existing(folder.output, folder.overwrite)
    from unrelu.cli.argument_files import read_along, read_model, read_observations, read_question
    from unrelu.cli.result_folders import answering, profile_records, write_profile

    output, network = folder.output, read_model(model, reading, device)
    y, (names, values) = read_observations(data), read_along(along)
    question = read_question(asked)
    with answering(folder, "profile") as (callback, interrupted):
        found = unrelu.profile(
            network, y, names, values, seed=seed, time_limit=time_limit, scale=asked.scale, callback=callback,
            **question,
        )  # fmt: skip
    rows = profile_records(found)
    write_profile(output, found, rows)
    written = f"written to {output}/: codes.npy results.jsonl, and profile.png for noise with a density"
    finish("profile", folder, interrupted, rows, found, written)


@_command(_LOOK, "status out")
def status(output: opt.RunFolder, json: opt.Json = False) -> None:
    """Show how far a run is, what came out so far, and how to resume it."""
    from unrelu.cli.run_progress import status_lines, summary

    found = unrelu.open_run(output)
    if json:
        leave("status", summary(found))
    show(json, *status_lines(found))


@_command(_LOOK, "report out")
def report(folder: opt.RunFolder, output: opt.Page = None, json: opt.Json = False) -> None:
    """Write the results of a run as an HTML page: counts, pictures, errors."""
    from unrelu.report import write_report

    page = write_report(folder, output)
    if json:
        leave("report", {"page": page})
    show(json, page)


@_command(_OTHERS, "certify mnist-relu digit.npy -o proofs --noise uniform:0.1")
def certify(
    model: opt.Model,
    data: opt.Observations,
    asked: opt.Measured,
    reading: opt.Reading,
    folder: opt.Folder,
    codes: opt.Codes = None,
    norm: opt.Norm = None,
    time_limit: opt.ProofTimeLimit = 10.0,
) -> None:
    """Prove how small the error of any code can be.

    The folder gets certificate-N.npz (one per observation, with bounds that can be verified without a solver),
    certificates.jsonl, codes.npy (the best codes), bounds.png and, for uniform noise, box.png. Ctrl-C stops the search
    and writes the bounds so far; a second Ctrl-C ends at once.
    """
    refuse_existing(folder.output, folder.overwrite)
    from unrelu.cli.argument_files import read_model, read_observations, read_question
    from unrelu.cli.result_folders import answering, certificate_records, write_certificates

    output = folder.output
    y, found = read_observations(data), None
    if codes:
        found = read_observations(codes / "codes.npy" if codes.is_dir() else codes, "codes", "codes")
    network, question = read_model(model, reading), read_question(asked)
    with answering(folder, "certify", "node") as (callback, interrupted):
        result = unrelu.certify(
            network, y, found, norm=norm, time_limit=time_limit, scale=asked.scale, callback=callback, **question
        )
    single = isinstance(result, unrelu.Certificate)
    certificates = [result] if isinstance(result, unrelu.Certificate) else list(result)
    write_certificates(output, certificates, single)
    rows = certificate_records(certificates)
    proofs = [{**row, "z": c.z} for row, c in zip(rows, certificates, strict=True)]
    among = "codes within the bounds" if rows[0]["bounds"] else "all codes"
    written = f"written to {output}/: certificate-*.npz certificates.jsonl codes.npy and pictures"
    finish("certify", folder, interrupted, proofs, f"Smallest {rows[0]['norm']} error over {among}", result, written)


@_command(_OTHERS, "inspect mnist-relu")
def inspect(model: opt.Model, reading: opt.Reading, device: opt.Device = None, json: opt.Json = False) -> None:
    """Print the layers of a model, and whether exact inversion can be expected."""
    from dataclasses import asdict

    from unrelu.cli.argument_files import read_model

    network = read_model(model, reading, device)
    found = unrelu.inspect(network)
    if json:
        shapes = {"latent_shape": network.latent_shape, "output_shape": network.output_shape}
        leave("inspect", {"model": model, **shapes, **asdict(found)})
    show(json, f"{model}: latent {network.latent_shape} to output {network.output_shape}", str(found))


@_command(_OTHERS, "demo -o demo")
def demo(
    output: Annotated[Path, opt.in_output("--output", "-o", help="Folder for the picture and the results.")] = Path(
        "demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of codes, digits, noise and starts, each a stream.")] = 2026,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Invert noisy digits by all methods, into tables and a picture."""
    refuse_existing(output, overwrite)
    from unrelu.cli._demonstration import run_demo
    from unrelu.cli.result_folders import prepare_output

    prepare_output(output, overwrite)
    show(quiet, run_demo(output, console_of(quiet), seed))


@_command(_OTHERS, "play decoder.onnx")
def play(
    reading: opt.Reading,
    model: Annotated[str | None, typer.Argument(help="A model file or a bundled generator, to choose first.")] = None,
    scale: opt.Scale = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of 127.0.0.1; 0 is any that is free.")] = 0,
) -> None:
    """Open a page on which to draw, and see the nearest picture of a generator.

    The page is for this machine only: Gradio serves it on 127.0.0.1, and it needs no network. Ctrl-C ends it.
    """
    from unrelu.cli.argument_files import read_model
    from unrelu.playground import PictureGenerator, bundled, serving
    from unrelu.runtime.interrupts import interruptible

    generators = sorted(bundled(), key=lambda known: known.name != model)
    if model is not None and (generators[0].name != model or Path(model).exists()):
        network = read_model(model, reading)
        generators.insert(0, PictureGenerator.of(Path(model).name, network, scale))
    with serving(generators, port) as url, interruptible("stopping") as ended:
        show(False, f"open {url} in a browser on this machine; Ctrl-C ends it")
        ended.wait()


for _entry in entry_points(group="unrelu.commands"):
    with suppress(ModuleNotFoundError):  # the studies are installed, and their folder is gone
        app.command(_entry.name, cls=_Command, rich_help_panel=_OTHERS)(_entry.load())
