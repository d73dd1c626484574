"""A generator as a reconstruction model of deepinv."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unrelu._invert import invert
from unrelu.errors import InputError, MissingPackageError
from unrelu.measurements import Mask
from unrelu.methods import Method
from unrelu.models.generator import Generator
from unrelu.result import Inversion
from unrelu.runtime.array_types import Shape

try:
    from deepinv import physics as kinds
    from deepinv.models import Reconstructor
except ImportError as error:
    raise MissingPackageError(
        f"GeneratorReconstructor needs deepinv: pip install deepinv ({error})", name="deepinv"
    ) from error


class GeneratorReconstructor(Reconstructor):
    r"""A ``deepinv.models.Reconstructor`` of images G(z) with A G(z) close to the measurements y.

    ``model(y, physics)`` calls :func:`unrelu.invert` for y, with the physics as A. It has no weights to train, and is
    not differentiable. Unless ``noise=`` is passed, the noise is that of the physics: a ``GaussianNoise``,
    ``UniformNoise`` or ``SaltPepperNoise``, whose salt and pepper together are outliers. For any other model, a level
    of 0, or levels that differ within the batch, it is unknown.

    Args:
        network: G, from :func:`unrelu.load`, :func:`unrelu.from_torch` or :func:`unrelu.from_arrays`. It computes where
            ``network.to(device=...)`` puts it; moving the reconstructor does not move it.
        method: as in :func:`unrelu.invert`.
        image_shape: (C, H, W) of an image. By default the network's output shape, or the physics' ``img_size`` if that
            is flat.
        **arguments: further arguments of :func:`unrelu.invert`, such as ``prior``, and options of the method.

    Attributes:
        inversion: the :class:`~unrelu.Inversion` of the last call; None before the first call.
    """

    def __init__(
        self, network: Generator, method: str | Method = "auto", *, image_shape: Shape | None = None, **arguments: Any
    ) -> None:
        super().__init__()
        self.network, self.method, self.image_shape, self.arguments = network, method, image_shape, arguments
        self.inversion: Inversion | None = None

    def forward(self, y: Tensor, physics: kinds.LinearPhysics, **kwargs: Any) -> Tensor:
        """Return images (B, C, H, W), with y's dtype and device, for measurements y, (B, ...).

        The image of an observation without a code is NaN, and a ``RuntimeWarning`` says so; ``inversion`` has the
        status of every observation.

        Args:
            y: measurements, as ``physics(x)`` makes them.
            physics: A, a ``LinearPhysics``. Only the masks of ``Inpainting`` may differ within the batch.
            **kwargs: arguments of :func:`unrelu.invert` for this call, in place of those of the reconstructor.

        Raises:
            UnreluError: the shape of images is not known, or :func:`unrelu.invert` cannot use an argument.
        """
        output = self.network.output_shape
        image = self.image_shape or (output if len(output) > 1 else getattr(physics, "img_size", None))
        if image is None or math.prod(image) != self.network.output_dim:
            raise InputError(
                f"an image has shape {image}, and the network's output {output}; pass image_shape=(C, H, W)"
            )
        arguments = {"noise": _stated_noise(physics), **self.arguments, **kwargs}
        operator = _operator(physics, image)
        found = self.inversion = invert(self.network, y.flatten(1), self.method, operator=operator, **arguments)
        if missing := np.flatnonzero(np.isnan(found.z.reshape(len(y), -1).sum(axis=1))).tolist():
            why = np.atleast_1d(found.message)[missing[0]]
            text = (
                f"{len(missing)} of {len(y)} observations have no code and are images of NaN, first {missing[0]}: {why}"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return torch.from_numpy(found.reconstruction).reshape(-1, *image).to(y.device, y.dtype)


class _OnFlat(torch.nn.Module):
    """A physics that takes flat outputs. It is a module, so that it has the physics' tensors and thus their type."""

    def __init__(self, physics: kinds.LinearPhysics, image: Shape) -> None:
        super().__init__()
        self.physics, self.image, self.A_adjoint = physics, image, physics.A_adjoint

    def A(self, x: Tensor) -> Any:
        return self.physics.A(x.reshape(-1, *self.image))


def _operator(physics: kinds.LinearPhysics, image: Shape) -> Any:
    """Convert a physics to ``operator=`` of :func:`unrelu.invert`: None for the identity, masks, or the physics.

    The identity and masks are recognised because layer-wise methods can invert them, and large ones need no matrix.
    """
    if type(physics) is kinds.Denoising:
        return None
    mask = physics.mask if type(physics) in (kinds.Inpainting, kinds.Demosaicing) else None
    if mask is None or not bool(((mask == 0) | (mask == 1)).all()):
        return _OnFlat(physics, image)
    masks = mask.expand(-1, *image).flatten(1)
    return Mask(masks[0] if len(masks) == 1 else masks)


def _stated_noise(physics: kinds.LinearPhysics) -> str | None:
    """Convert the physics' noise model to ``noise=`` of :func:`unrelu.invert`; None if it has no single level."""
    model: Any = getattr(physics, "noise_model", None)
    if type(model) is kinds.GaussianNoise:
        kind, level = "gaussian", model.sigma
    elif type(model) is kinds.UniformNoise:
        kind, level = "uniform", model.a
    elif type(model) is kinds.SaltPepperNoise:
        kind, level = "outliers", model.p + model.s
    else:
        return None
    levels = set(torch.as_tensor(level).flatten().tolist())
    return f"{kind}:{levels.pop()!r}" if len(levels) == 1 and levels != {0.0} else None
