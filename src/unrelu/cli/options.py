"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        help="A model file (.onnx .keras .h5 .pt .pth .safetensors .npz), or a name of the zoo such as mnist-relu."
    ),
]
Layers = Annotated[str | None, typer.Option(help="The decoder's layers in a larger checkpoint: fc3,fc4 or decoder.")]
ActivationName = Annotated[
    str | None,
    typer.Option(
        help="Activation, where the file does not tell it: relu, leaky_relu:0.1, ...; or one a layer, relu,relu,sigmoid"
    ),
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Bytes that a file may take once it is decompressed; larger ones are refused unread. [default: 4 GiB]",
    ),
]
LatentShape = Annotated[str | None, typer.Option(help="Shape of a latent code where the file does not tell: 64,1,1")]
Scale = Annotated[
    str | None,
    typer.Option(
        help="Map the data's own range (0..255 of bytes, 0..1 of floats) to LOW,HIGH: -1,1. Data on another scale than "
        "the generator are an error; none: they are right as they are."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no summary.")]
Method = Annotated[
    str,
    typer.Option(
        help="auto, exact, linf, l1, relaxed, least_squares, lm, gradient_descent, adam, plugin, ilo, projected"
    ),
]
Options = Annotated[list[str] | None, typer.Option("--option", "-O", help="Option of the method: name=value")]
Noise = Annotated[
    str | None,
    typer.Option(help="uniform:A, gaussian:S, outliers:P, poisson or negative-binomial:R, in units of the data"),
]
Bounds = Annotated[
    str | None,
    typer.Option(
        help="Bounds of the codes: LOW,HIGH of every coordinate (inf where there is none), or a .npz with arrays lower "
        "and upper."
    ),
]
Norm = Annotated[str | None, typer.Option(help="Objective: l2, l1 or linf (default: that of the noise)")]
Prior = Annotated[float, typer.Option(help="Weight of |z|^2 in the l2 objective.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Observations = Annotated[Path, typer.Argument(help="Observations: a .npy or .npz file, one or a batch (B, ...).")]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; must not exist.")]
Overwrite = Annotated[bool, typer.Option(help="Replace the results in an existing folder.")]
MaskFile = Annotated[Path | None, typer.Option(help="0/1 masks (.npy, .npz): entries under a 0 are ignored.")]
OperatorFile = Annotated[
    Path | None, typer.Option(help="Matrix A (.npy, or .npz of scipy.sparse) that the outputs were measured with.")
]
