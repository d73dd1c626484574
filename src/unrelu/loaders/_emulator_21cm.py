"""The default emulator of 21cmEMU, from its file of weights alone: a trunk of eight layers, and a head a summary.

Nine parameters of the first galaxies determine seven summaries of the cosmic dawn. All are in the units of training.
The file, ``py21cmemu/models/acg/default_model.pt`` of py21cmemu 3, states its class, its slope and its weights.

Source: Breitman et al., Monthly Notices of the Royal Astronomical Society 527 (2024) 9833, arXiv:2309.05697; the layers
are those of ``DefaultEmulatorV1`` in py21cmemu (MIT licence).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unrelu.errors import ModelFileError
from unrelu.loaders.file_checks.checkpoint import check_tensors
from unrelu.models.affine import Shape
from unrelu.runtime.words import shown

_CLASS = "DefaultEmulatorV1"
# The widths of dense layers, by the beginning of their names.
_DENSE = {
    "shared": [9, *[1000] * 8], "tb": [1000, 600, 700, 700, 1000, 1000, 800, 800, 84], "xhi": [1000, *[500] * 5, 84],
    "ts": [1000, *[400] * 5, 84], "discont": [1000, *[400] * 5, 1], "tau": [1000, 30, 30, 30, 1],
    "uvlf": [1000, *[400] * 5, 124],
}  # fmt: skip
# Transposed convolutions by number: channels, kernel, and whether the size stays. After some, the picture is upsampled.
_CONVOLUTIONS: dict[int, tuple[int, int, tuple[int, int], bool]] = {
    0: (1000, 256, (4, 2), False), 1: (256, 256, (7, 3), True), 2: (256, 256, (3, 3), False),
    3: (256, 128, (7, 3), True), 4: (128, 128, (7, 3), False), 5: (128, 64, (3, 1), False), 6: (64, 64, (5, 3), True),
    7: (64, 32, (7, 3), True), 8: (32, 32, (7, 3), True), 10: (32, 8, (3, 1), False), 11: (8, 8, (9, 3), True),
    13: (8, 8, (9, 3), True), 14: (8, 1, (11, 3), True),
}  # fmt: skip
_UPSAMPLED = {8: (2, 2), 11: (2, 1)}
# The summaries in order, with the beginning of their layers' names and their shapes: redshifts, or redshifts by
# wavenumbers and redshifts by magnitudes.
_SUMMARIES: dict[str, tuple[str, Shape]] = {
    "Tb": ("tb", (84,)), "xHI": ("xhi", (84,)), "Ts": ("ts", (84,)), "discont": ("discont", (1,)),
    "PS": ("ps_conv", (60, 12)), "tau": ("tau", (1,)), "UVLF": ("uvlf", (4, 31)),
}  # fmt: skip
PARAMETERS = (
    "F_STAR10", "ALPHA_STAR", "F_ESC10", "ALPHA_ESC", "M_TURN", "t_STAR", "L_X", "NU_X_THRESH", "X_RAY_SPEC_INDEX",
)  # fmt: skip
SUMMARIES = tuple(_SUMMARIES)


def is_emulator_21cm(checkpoint: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a checkpoint says that it is of this emulator."""
    stated = checkpoint.get("model_class") if isinstance(checkpoint, Mapping) else None
    return isinstance(stated, str) and stated == _CLASS


def read_emulator_21cm(checkpoint: Mapping[str, Any]) -> nn.Module:
    """Return the emulator of a checkpoint, a module that maps codes (B, 9) to the summaries by name.

    Raises:
        ModelFileError: weights are missing, have other shapes, or are more; or the slope is not between 0 and 1.
    """
    slope, weights = checkpoint.get("negative_slope"), checkpoint.get("state_dict")
    if not isinstance(slope, float) or not 0 <= slope <= 1:
        raise ModelFileError(f"the file of a {_CLASS} has negative_slope={shown(slope)}; it is a number from 0 to 1")
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(held, Tensor) and held.is_floating_point()
        for name, held in weights.items()
    ):
        raise ModelFileError(f"the file of a {_CLASS} has no state_dict of real tensors by name")
    check_tensors(weights)
    with torch.device("meta"):
        module = Emulator21cm(slope)
    try:
        module.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise ModelFileError(f"the weights are not those of a {_CLASS}: {said}") from error
    return module.requires_grad_(False).eval()


class Emulator21cm(nn.Module):
    """The emulator, with the names of its file.

    Args:
        slope: the slope of LeakyReLU.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope
        for name, widths in _DENSE.items():
            for i, (inputs, outputs) in enumerate(pairwise(widths)):
                last = name != "shared" and i == len(widths) - 2
                self.add_module(f"{name}_{'final' if last else i}", nn.Linear(inputs, outputs))
        for number, (channels, made, (height, width), same) in _CONVOLUTIONS.items():
            # A kernel of odd size k, cropped by (k - 1) / 2 on both sides.
            padding = (height // 2, width // 2) if same else (0, 0)
            convolution = nn.ConvTranspose2d(channels, made, (height, width), padding=padding)
            self.add_module(f"ps_conv_{number}", convolution)

    def forward(self, z: Tensor) -> Mapping[str, Tensor]:
        """The summaries, which are computed when they are taken from the mapping."""
        h = self._dense("shared", z, self._rectified)
        return _Summaries({name: partial(self._summary, name, h) for name in _SUMMARIES})

    def _summary(self, name: str, h: Tensor) -> Tensor:
        layers, shape = _SUMMARIES[name]
        if name == "PS":
            return self._picture(h[:, :, None, None])[:, 0]
        x = self._dense(layers, h, torch.relu if name == "xHI" else self._rectified)
        x = torch.sigmoid(x) if name == "xHI" else x
        return x if len(shape) == 1 else torch.unflatten(x, 1, shape)

    def _rectified(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)

    def _dense(self, layers: str, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        for i in range(len(_DENSE[layers]) - 1):
            last = layers != "shared" and i == len(_DENSE[layers]) - 2
            x = self.get_submodule(f"{layers}_{'final' if last else i}")(x)
            x = x if last else activation(x)
        return x

    def _picture(self, x: Tensor) -> Tensor:
        last = max(_CONVOLUTIONS)
        for number in _CONVOLUTIONS:
            x = self.get_submodule(f"ps_conv_{number}")(x)
            x = x if number == last else self._rectified(x)
            if number in _UPSAMPLED:
                x = self._rectified(F.interpolate(x, scale_factor=_UPSAMPLED[number], mode="nearest"))
        return x


class _Summaries(Mapping[str, Tensor]):
    """Tensors by name, computed when they are taken."""

    def __init__(self, functions: Mapping[str, Callable[[], Tensor]]) -> None:
        self._functions = functions

    def __getitem__(self, name: str) -> Tensor:
        return self._functions[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)
