"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unrelu.cli import completion

Model = Annotated[
    str,
    typer.Argument(
        help="A model file (.onnx .keras .h5 .pt .pth .safetensors .npz), or a name of the zoo such as mnist-relu.",
        autocompletion=completion.models,
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
Method = Annotated[str, typer.Option(help=", ".join(completion.METHODS), autocompletion=completion.methods)]
Options = Annotated[list[str] | None, typer.Option("--option", "-O", help="Option of the method: name=value")]
Noise = Annotated[
    str | None,
    typer.Option(
        help="uniform:A, gaussian:S, outliers:P, poisson or negative-binomial:R, in units of the data",
        autocompletion=completion.noises,
    ),
]
Bounds = Annotated[
    str | None,
    typer.Option(
        help="Bounds of the codes: LOW,HIGH of every coordinate (inf where there is none), or a .npz with arrays lower "
        "and upper."
    ),
]
Norm = Annotated[
    str | None,
    typer.Option(help="Objective: l2, l1 or linf (default: that of the noise)", autocompletion=completion.norms),
]
Prior = Annotated[float, typer.Option(help="Weight of |z|^2 in the l2 objective.")]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.")]
Observations = Annotated[Path, typer.Argument(help="Observations: a .npy or .npz file, one or a batch (B, ...).")]
ObservationsOrPicture = Annotated[
    Path, typer.Argument(help="Observations: a picture (.png, .jpg), or a .npy or .npz file, one or a batch (B, ...).")
]
OutputFolderOrPicture = Annotated[
    Path,
    typer.Option("--output", "-o", help="Folder for the results, or a picture (.png, .jpg) of one; must not exist."),
]
Size = Annotated[str | None, typer.Option(help="Resize pictures to HEIGHT,WIDTH.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on standard output, also of an error; everything else on stderr."),
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; must not exist.")]
Overwrite = Annotated[bool, typer.Option(help="Replace the results in an existing folder.")]
MaskFile = Annotated[Path | None, typer.Option(help="0/1 masks (.npy, .npz): entries under a 0 are ignored.")]
OperatorFile = Annotated[
    Path | None, typer.Option(help="Matrix A (.npy, or .npz of scipy.sparse) that the outputs were measured with.")
]

# What the help of a command ends with. The times are the processor time of a fresh process on two cores of a server,
# with compiled kernels in the cache, most of it for importing libraries; that of `run` is shared by two workers.
EXAMPLES = {
    "invert": "Examples, with about how long they take on two cores:\n\n"
    "unrelu invert mnist-relu photo.png -o out.png -- a picture of 28 x 28 pixels, 6 s\n\n"
    "unrelu invert mnist-relu digits.npy -o out --noise gaussian:0.1 -- 100 digits (100, 784), 8 s\n\n"
    "unrelu invert mnist-dcgan photo.png -o out.png --noise gaussian:0.1 --json -- for a script, 9 s",
    "certify": "Example, with about how long it takes on two cores:\n\n"
    "unrelu certify mnist-relu digit.npy -o proofs --noise uniform:0.1 -- a digit (784,), 8 s and at most 10 more",
    "inspect": "Example, with about how long it takes on two cores:\n\n"
    "unrelu inspect mnist-relu -- a 20-60-784 network, 6 s",
    "run": "Example, with about how long it takes on two cores:\n\n"
    "unrelu run mnist-relu digits.npy -o out --noise gaussian:0.1 -- 1,000 digits (1000, 784), 30 s; "
    "the same line goes on after a stop",
    "status": "Example, with about how long it takes on two cores:\n\n"
    "unrelu status out -- a run of 1,000 observations, 5 s",
    "report": "Example, with about how long it takes on two cores:\n\n"
    "unrelu report out -- a run of 1,000 observations, into out/report.html, 5 s",
    "demo": "Example, with about how long it takes on two cores:\n\n"
    "unrelu demo -o demo -- 62 digits by up to eight methods, into demo/grid.png, 90 s",
    "play": "Example, with about how long it takes on two cores until the page can be opened:\n\n"
    "unrelu play decoder.onnx -- a decoder of pictures beside the bundled ones, 7 s",
}
