"""Every option of the commands, declared once, and its shell completion.

Options that several commands share are the fields of a class. A parameter of this class gives a command all of them.

Nothing heavy is imported here, because ``--help`` and every completion would wait for it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

# A test compares these names with the registries.
METHODS = ("auto", "exact", "linf", "l1", "relaxed", "least_squares", "lm", "gradient_descent", "adam")
ZOO = ("mnist-relu", "mnist-leaky", "mnist-sigmoid", "mnist-dcgan")
NOISE = ("uniform", "gaussian", "outliers", "rounding", "poisson", "negative-binomial")
NORMS = ("l2", "l1", "linf", "huber")
# The names that --model-option takes.
MODEL_OPTIONS = ("latent_shape", "names", "output_log")
_MODEL_FILES = (".onnx", ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".pkl", ".pickle", os.sep)
# Options by the panels of a command's help.
in_reading = partial(typer.Option, rich_help_panel="How the model is read")
in_question = partial(typer.Option, rich_help_panel="What was observed")
in_search = partial(typer.Option, rich_help_panel="How it is searched")
in_output = partial(typer.Option, rich_help_panel="Output")


def _beginning(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Return the names of the zoo, model files and folders that begin with the incomplete word."""
    paths = (path + os.sep * os.path.isdir(path) for path in sorted(glob.glob(f"{glob.escape(incomplete)}*")))
    return [*_beginning(ZOO)(incomplete), *(path for path in paths if path.lower().endswith(_MODEL_FILES))]


# --- arguments --------------------------------------------------------------------------------------------------------

Model = Annotated[
    str,
    typer.Argument(
        help=f"A model file (.onnx .pt .pth .safetensors .npz .pkl), or a bundled generator: {', '.join(ZOO)}.",
        autocompletion=models,
    ),
]
Observations = Annotated[
    Path, typer.Argument(exists=True, help="Observations: a picture (.png, .jpg), or .npy or .npz, one or a batch.")
]
DataSet = Annotated[
    str, typer.Argument(help="Observations: .npy, .npz, .h5, a folder of Zarr, or a folder of pictures.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of `unrelu run`, finished or not.")]

# --- how the model is read --------------------------------------------------------------------------------------------

Layers = Annotated[str | None, in_reading(help="The decoder's layers in a larger checkpoint: fc3,fc4 or decoder.")]
ActivationName = Annotated[
    str | None,
    in_reading(help="Where the file does not state it: relu, leaky_relu:0.1, ...; or one a layer, relu,relu,sigmoid."),
]
Device = Annotated[str | None, in_reading(help="Where to compute: cpu, cuda, cuda:1, ... By default cpu.")]


@dataclass(frozen=True)
class Reading:
    """Options for reading the model."""

    layers: Layers = None
    activation: ActivationName = None
    model_option: Annotated[
        list[str] | None,
        in_reading(
            metavar="NAME=VALUE",
            help="More on the file: latent_shape=64,1,1; names=temperature,metallicity of the latent coordinates; "
            "output_log=10 where outputs are logarithms. Repeatable.",
        ),
    ] = None


# --- what was observed ------------------------------------------------------------------------------------------------

Scale = Annotated[
    str | None,
    in_question(
        help="LOW,HIGH: map the data's range (0..255 of bytes) to this one; none: they are right. By default pictures "
        "are mapped to the generator's range."
    ),
]
Size = Annotated[str | None, in_question(help="Resize pictures to HEIGHT,WIDTH.")]
ArrayName = Annotated[str | None, in_question(help="Name of the array in a file of several.")]


@dataclass(frozen=True)
class Measured:
    """Options that state what was observed."""

    noise: Annotated[
        str | None,
        in_question(
            help="Errors of the data: gaussian:0.1 (standard deviation), uniform:0.1 (largest error), outliers:0.05 "
            "(fraction), poisson, ...; or a .npz with an array std or covariance.",
            autocompletion=_beginning(NOISE),
        ),
    ] = None
    bounds: Annotated[
        str | None,
        in_question(help="Bounds of codes: LOW,HIGH of all coordinates, or a .npz with arrays lower and upper."),
    ] = None
    fixed: Annotated[
        list[str] | None,
        in_question(metavar="NAME=VALUE", help="Hold a coordinate at a value, by its name or its place. Repeatable."),
    ] = None
    operator: Annotated[
        Path | None, in_question(exists=True, help="Matrix A of y = A G(z) (.npy, or .npz of scipy.sparse).")
    ] = None
    scale: Scale = None
    mask: Annotated[
        Path | None,
        in_question(exists=True, help="0/1 masks (.npy, .npz; of `run` also one an observation, stored like DATA)."),
    ] = None


@dataclass(frozen=True)
class Question(Measured):
    """Options that state what was observed, and what is known about codes."""

    prior: Annotated[
        str | None,
        in_question(
            help="Distribution of codes: MEAN,STD of all coordinates, or a .npz with arrays mean and std. One number "
            "is a weight of |z|^2 (not for posteriors)."
        ),
    ] = None


# --- how it is searched -----------------------------------------------------------------------------------------------

MethodName = Annotated[str, in_search(help=", ".join(METHODS), autocompletion=_beginning(METHODS))]
MethodOption = Annotated[
    list[str] | None, in_search("--option", "-O", metavar="NAME=VALUE", help="Option of the method.")
]
Norm = Annotated[
    str | None,
    in_search(
        help="Norm of the residual: l2, l1, linf or huber:D. By default the noise's.", autocompletion=_beginning(NORMS)
    ),
]
Seed = Annotated[int, in_search(help="Seed of every random choice.")]
TimeLimit = Annotated[float | None, in_search(help="Seconds for all observations together.")]
ChunkTimeLimit = Annotated[float | None, in_search("--time-limit", help="Seconds for each chunk.")]
ProofTimeLimit = Annotated[float, in_search("--time-limit", help="Seconds for the bounds of each observation.")]
Along = Annotated[
    list[str],
    in_search(
        metavar="NAME=LOW,HIGH,COUNT",
        help="Hold a coordinate at so many values, by its name or its place. Or two of them.",
    ),
]
Draws = Annotated[int, in_search(help="Draws of each chain.")]
Posterior = Annotated[int, in_search(help="Draws of each chain of each observation's posterior; 0: none.")]
Chunk = Annotated[
    int | None, in_search(help="Observations that are inverted together. By default a 16th of all, 8 to 256.")
]
Workers = Annotated[int | None, in_search(help="Processes on this machine. By default one a core.")]
Codes = Annotated[
    Path | None,
    in_search(exists=True, help="Codes to certify: .npy, or a folder of `unrelu invert`. By default found by auto."),
]

# --- output -----------------------------------------------------------------------------------------------------------

Export = Annotated[
    list[Path] | None,
    in_output(
        metavar="COLUMN.npy",
        help="At the end write a column to a file of its name: codes.npy, reconstructions.npy, p_value.npy. "
        "Repeatable.",
    ),
]
Page = Annotated[Path | None, in_output("--output", "-o", help="The page. By default OUT/report.html.")]
Overwrite = Annotated[bool, in_output("--overwrite", help="Replace the results in an existing folder.")]
Quiet = Annotated[bool, in_output("--quiet", "-q", help="No progress bar and no summary.")]
Json = Annotated[bool, in_output("--json", help="One JSON document on standard output; all else on standard error.")]


@dataclass(frozen=True)
class OutputOptions:
    """Options for the output of results."""

    overwrite: Overwrite = False
    quiet: Quiet = False
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Folder(OutputOptions):
    """Options for the output of results, with a folder."""

    output: Annotated[Path, in_output("--output", "-o", help="Folder for the results; must not exist.")]
