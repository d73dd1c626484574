"""Arguments and options that only the command line has, such as files of arrays, and shell completion.

Nothing heavy is imported here, because ``--help`` and every completion would wait for it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import unrelu
from unrelu.errors import InputError, OptionError

if TYPE_CHECKING:
    from unrelu.models.generator import Generator

# A test compares these names with the registries.
METHODS = ("auto", "exact", "linf", "l1", "relaxed", "least_squares", "lm", "gradient_descent", "adam")
ZOO = ("mnist-relu", "mnist-leaky", "mnist-sigmoid", "mnist-dcgan")
_SOURCES = sorted((Path(__file__).parent.parent / "measurements").glob("*_noise.py"))
NOISE = tuple(name for path in _SOURCES for name in re.findall(r'^    name.* = "([\w-]+)"$', path.read_text(), re.M))
_MODEL_FILES = (".onnx", ".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".pkl", ".pickle", os.sep)


def _beginning(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


# Completion of the library's parameters, by their names.
COMPLETED = {
    "method": _beginning(METHODS),
    "noise": _beginning(NOISE),
    "norm": _beginning(("l2", "l1", "linf", "huber")),
}


def models(incomplete: str) -> list[str]:
    """Names of the zoo, model files and folders that begin with the incomplete word."""
    paths = (path + os.sep * os.path.isdir(path) for path in sorted(glob.glob(f"{glob.escape(incomplete)}*")))
    return [*_beginning(ZOO)(incomplete), *(path for path in paths if path.lower().endswith(_MODEL_FILES))]


Model = Annotated[
    str,
    typer.Argument(
        help="A model file (.onnx .pt .pth .safetensors .npz .pkl), or a name of the zoo: mnist-relu",
        autocompletion=models,
    ),
]
Layers = Annotated[str | None, typer.Option(help="The decoder's layers in a larger checkpoint: fc3,fc4 or decoder.")]
ActivationName = Annotated[
    str | None,
    typer.Option(
        help="Activation, if the file does not state it: relu, leaky_relu:0.1, ...; or one per layer, relu,relu,sigmoid"
    ),
]
Observations = Annotated[Path, typer.Argument(help="Observations: a .npy or .npz file, one or a batch (B, ...).")]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; must not exist.")]
Options = Annotated[list[str] | None, typer.Option("--option", "-O", help="Option of the method: name=value")]
Bounds = Annotated[
    str | None,
    typer.Option(
        help="Bounds of the codes: LOW,HIGH for every coordinate (inf for no bound), or a .npz with arrays lower "
        "and upper."
    ),
]
_NORMAL = "MEAN,STD of normal codes for every coordinate, or a .npz with arrays mean and std"
CodePrior = Annotated[
    str | None, typer.Option("--prior", help=f"{_NORMAL} (default: 0,1, or uniform between two finite bounds).")
]
Prior = Annotated[str | None, typer.Option(help=f"{_NORMAL}; or a number, the weight of |z|^2 in the objective.")]
MaskFile = Annotated[Path | None, typer.Option(help="0/1 masks (.npy, .npz): entries under a 0 are ignored.")]
OperatorFile = Annotated[
    Path | None, typer.Option(help="Matrix A (.npy, or .npz of scipy.sparse) that the outputs were measured with.")
]
Size = Annotated[str | None, typer.Option(help="Resize pictures to HEIGHT,WIDTH.")]
Overwrite = Annotated[bool, typer.Option(help="Replace the results in an existing folder.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on standard output, also of an error; everything else on stderr."),
]


@dataclass(frozen=True)
class Reading:
    """How a model file is read."""

    layers: Layers = None
    activation: ActivationName = None
    latent_shape: Annotated[
        str | None, typer.Option(help="Shape of a latent code, if the file does not state it: 64,1,1")
    ] = None
    names: Annotated[
        str | None, typer.Option(help="Names of the latent coordinates: temperature,metallicity (default: the file's).")
    ] = None
    output_log: Annotated[
        float | None,
        typer.Option(help="Base of the logarithms that outputs of the file are, e.g. 10, to put out numbers instead."),
    ] = None
    max_bytes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Bytes that a file may take once it is decompressed; larger ones are refused unread (default: 4 GiB, "
            "1 GiB of a model).",
        ),
    ] = None
    device: Annotated[
        str | None, typer.Option(help="Where to compute: cpu (default), cuda, cuda:1, ... as PyTorch names devices.")
    ] = None

    @property
    def limit(self) -> int:
        """The largest size of a file in bytes."""
        from unrelu.runtime.file_reading import MAX_BYTES

        return self.max_bytes or MAX_BYTES

    def network(self, model: str) -> Generator:
        """Load a network of the zoo by its name, or from a file, to its device."""
        import numpy as np  # noqa: F401 # PyTorch imports it where an interrupt is lost

        from unrelu.runtime.devices import usable

        place = None if self.device is None else usable(self.device)
        network = self._network(model)
        if self.names is not None:
            names = [name.strip() for name in self.names.split(",")]
            if not all(names):
                raise OptionError(f"--names {self.names}: name {names.index('') + 1} of {len(names)} is empty")
            network = network.named(names)
        return network if place is None else network.to(device=place)

    def _network(self, model: str) -> Generator:
        from unrelu.runtime.file_reading import MODEL_BYTES

        layers, activation = self.layers, self.activation
        if model in unrelu.zoo.names() and not Path(model).exists():
            if layers or activation or self.latent_shape or self.output_log is not None:
                raise OptionError(
                    f"{model} is a network of the zoo; --layers, --activation, --latent-shape and --output-log are for "
                    "files"
                )
            return unrelu.zoo.load(model)
        if not Path(model).suffix and not Path(model).exists():
            raise InputError(f"{model}: no such file; the zoo has {', '.join(unrelu.zoo.names())}")
        try:
            shape = tuple(int(n) for n in self.latent_shape.split(",")) if self.latent_shape else None
        except ValueError:
            raise InputError(
                f"--latent-shape {self.latent_shape!r}: write whole numbers with commas, e.g. 64,1,1"
            ) from None
        return unrelu.load(
            model,
            layers=[name.strip() for name in layers.split(",")] if layers and not layers.endswith(".") else layers,
            activation=activation.split(",") if activation and "," in activation else activation,
            latent_shape=shape,
            max_bytes=self.max_bytes or MODEL_BYTES,
            output_log=self.output_log,
        )
