"""A generator as a reconstruction model of deepinv."""

from __future__ import annotations

import math
import warnings
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from unrelu._invert import invert
from unrelu.errors import InputError, MissingPackageError
from unrelu.measurements import Mask
from unrelu.measurements.noise import Noise
from unrelu.methods import Method, make
from unrelu.models.affine import Shape
from unrelu.models.code_prior import Normal
from unrelu.models.generator import Generator, as_generator, by
from unrelu.result import Inversion

try:
    from deepinv.models import Reconstructor
    from deepinv.physics import (
        Demosaicing,
        Denoising,
        GaussianNoise,
        Inpainting,
        LinearPhysics,
        SaltPepperNoise,
        UniformNoise,
    )
except ImportError as error:
    raise MissingPackageError(
        f"GeneratorReconstructor needs deepinv: pip install deepinv ({error})", name="deepinv"
    ) from error


class GeneratorReconstructor(Reconstructor):
    r"""A ``deepinv.models.Reconstructor`` of images G(z) with A G(z) close to the measurements y.

    ``model(y, physics)`` calls :func:`unrelu.invert` for y, with the physics as A. It has no weights to train, and is
    not differentiable.

    Args:
        network: G, from :func:`unrelu.load`, :func:`unrelu.from_torch` or :func:`unrelu.from_arrays`. It computes where
            ``network.to(device=...)`` puts it; moving the reconstructor does not move it.
        method: a name of the registry or a callable, as in :func:`unrelu.invert`.
        image_shape: (C, H, W) of an image. By default the network's output shape, or the physics' ``img_size`` if that
            is flat.
        noise: "physics", None (unknown), or "uniform:A", "gaussian:S" or "outliers:P". "physics" reads the physics'
            ``noise_model``: S of a ``GaussianNoise``, A of a ``UniformNoise``, or P of a ``SaltPepperNoise``, the sum
            of salt and pepper. For any other model, a level of 0, or levels that differ within the batch, the noise is
            unknown.
        bounds, norm, prior, seed, time_limit, scale: as in :func:`unrelu.invert`. Measurements of images on another
            scale than the generator's are an error.
        **options: options of the method.

    Attributes:
        inversion: the :class:`~unrelu.Inversion` of the last call, with its codes and their status; None before the
            first call.

    Raises:
        OptionError: ``network`` is not a generator, or the method or an option is unknown.
        InputError: ``image_shape`` has another number of entries than the network's output.
        MissingPackageError: at the import, if deepinv is not installed.
    """

    def __init__(
        self,
        network: Generator,
        method: str | Method = "auto",
        *,
        image_shape: Shape | None = None,
        noise: Noise | str | None = "physics",
        bounds: Any = None,
        norm: str | None = None,
        prior: float | Normal = 0.0,
        seed: int = 0,
        time_limit: float | None = None,
        scale: str | tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        as_generator(network)
        if image_shape is not None and math.prod(image_shape) != network.output_dim:
            raise InputError(
                f"image_shape={tuple(image_shape)} has {math.prod(image_shape)} entries; the network's output "
                f"{by(network.output_shape)} has {network.output_dim}"
            )
        make(method, options)
        self.network = network
        self.method = method
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.arguments = {
            "noise": noise, "bounds": bounds, "norm": norm, "prior": prior, "seed": seed, "time_limit": time_limit,
            "scale": scale,
        }  # fmt: skip
        self.options = options
        self.inversion: Inversion | None = None

    def forward(self, y: Tensor, physics: LinearPhysics, **kwargs: Any) -> Tensor:
        """Return images (B, C, H, W), with y's dtype and device, for measurements y, (B, ...).

        The image of an observation without a code is NaN, and a ``RuntimeWarning`` says so; ``inversion`` has the
        status of every observation.

        Args:
            y: measurements, as ``physics(x)`` makes them.
            physics: A, a ``LinearPhysics``. Only the masks of ``Inpainting`` may differ within the batch.
            **kwargs: arguments of :func:`unrelu.invert` for this call, in place of those of the reconstructor: ``z0``,
                ``noise``, ``seed``, ``callback``, options of the method.

        Raises:
            InputError: y is not a tensor or does not fit the physics; or the physics is not linear, does not fit the
                network's output, or has parameters for each observation.
            OptionError: an option is unknown.
            UnsupportedModelError: the method cannot invert this network, or not under this operator.
        """
        if not isinstance(y, Tensor):
            raise InputError(f"y is a {type(y).__name__}; pass one tensor of measurements, (B, ...)")
        shape = self._image_shape(physics)
        arguments = {**self.arguments, **self.options, **kwargs}
        if arguments["noise"] == "physics":
            arguments["noise"] = _stated_noise(physics)
        operator = _operator(physics, shape, len(y))
        # An array of the output's own shape would be one observation, so a batch of one must not be flat.
        flat = y.reshape(len(y), -1)
        if (operator is None or isinstance(operator, Mask)) and flat.shape[1] == self.network.output_dim:
            flat = flat.reshape(-1, *self.network.output_shape)
        found = invert(self.network, flat, self.method, operator=operator, **arguments)
        self.inversion = found
        missing = np.asarray(np.isnan(found.z.reshape(len(y), -1)).any(axis=1))
        if missing.any():
            first = int(np.flatnonzero(missing)[0])
            warnings.warn(
                f"{int(missing.sum())} of {len(missing)} observations have no code and are images of NaN, first "
                f"{first}: {found.message[first]}",
                RuntimeWarning,
                stacklevel=2,
            )
        return torch.from_numpy(found.reconstruction).reshape(-1, *shape).to(y.device, y.dtype)

    def extra_repr(self) -> str:
        """The text of ``print(model)``."""
        network = self.network
        return f"{type(network).__name__} {network.latent_dim} -> {by(network.output_shape)}, method={self.method!r}"

    def _image_shape(self, physics: LinearPhysics) -> Shape:
        output = self.network.output_shape
        if self.image_shape is not None:
            return self.image_shape
        if len(output) > 1:
            return output
        size = getattr(physics, "img_size", None)
        if size is not None and math.prod(size) == self.network.output_dim:
            return tuple(size)
        raise InputError(
            f"the network's output is flat ({by(output)}) and {type(physics).__name__} has "
            f"{'no img_size' if size is None else f'img_size {tuple(size)}'}; pass image_shape=(C, H, W)"
        )


class _OnFlat(torch.nn.Module):
    """A physics on flat outputs and measurements. As a module it has the physics' tensors, and thus their type."""

    def __init__(self, physics: LinearPhysics, image: Shape, measured: Shape) -> None:
        super().__init__()
        self.physics, self.image, self.measured = physics, image, measured

    def A(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.physics.A(x.reshape(len(x), *self.image))).reshape(len(x), -1)

    def A_adjoint(self, r: Tensor) -> Tensor:
        return cast(Tensor, self.physics.A_adjoint(r.reshape(len(r), *self.measured))).reshape(len(r), -1)


def _operator(physics: LinearPhysics, image: Shape, size: int) -> Any:
    """Convert a physics to ``operator=`` of :func:`unrelu.invert`: None for the identity, a mask, or flat functions.

    The identity and masks are recognised because layer-wise methods can invert them, and large ones need no matrix.
    """
    if not isinstance(physics, LinearPhysics):
        raise InputError(
            f"physics is a {type(physics).__name__}, which is no LinearPhysics; codes are found for linear "
            "measurements only"
        )
    if type(physics) is Denoising:
        return None
    if type(physics) in (Inpainting, Demosaicing):
        mask = physics.mask
        if mask is None:
            raise InputError("physics has no mask yet; pass Inpainting(mask=...) or call physics.update(mask=...)")
        if bool(((mask == 0) | (mask == 1)).all()):
            return _masks(mask, image, size)
    return _OnFlat(physics, image, _measured(physics, image))


def _masks(mask: Tensor, image: Shape, size: int) -> Mask:
    """Convert masks to flat booleans: (n,) for all observations, or (B, n), one for each.

    Raises:
        InputError: their number or their shape does not fit.
    """
    if mask.shape[0] not in (1, size):
        raise InputError(f"physics has {len(mask)} masks for {size} observations; pass one for all, or one for each")
    try:
        flat = mask.expand(-1, *image).reshape(len(mask), -1).bool()
    except RuntimeError as error:
        raise InputError(
            f"physics has a mask of shape {tuple(mask.shape[1:])}, the network's images are {by(image)}: {error}"
        ) from None
    return Mask(flat[0] if len(flat) == 1 else flat)


def _measured(physics: LinearPhysics, image: Shape) -> Shape:
    """Shape of the measurements of one image."""
    own = [*physics.parameters(), *physics.buffers()]
    like = next((tensor for tensor in own if tensor.is_floating_point()), torch.zeros(()))
    with torch.no_grad():
        try:
            measured = physics.A(torch.zeros((1, *image), dtype=like.dtype, device=like.device))
        except Exception as error:  # deepinv's or the user's code may raise anything
            raise InputError(f"physics.A fails on an image of shape {(1, *image)}: {error}") from error
    if not isinstance(measured, Tensor):
        raise InputError(
            f"physics.A gives a {type(measured).__name__} of several tensors; pass one physics whose measurements are "
            "one tensor"
        )
    if len(measured) != 1:
        raise InputError(
            f"physics has parameters for each of {len(measured)} observations; pass one observation at a time with "
            "its own physics (only masks of Inpainting may differ within a batch)"
        )
    return tuple(measured.shape[1:])


def _stated_noise(physics: LinearPhysics) -> str | None:
    """Convert the physics' noise model to ``noise=`` of :func:`unrelu.invert`; None if it has no single level."""
    model: Any = getattr(physics, "noise_model", None)
    if type(model) is GaussianNoise:
        kind, level = "gaussian", model.sigma
    elif type(model) is UniformNoise:
        kind, level = "uniform", model.a
    elif type(model) is SaltPepperNoise:
        kind, level = "outliers", model.p + model.s
    else:
        return None
    levels = set(torch.as_tensor(level).flatten().tolist())
    return f"{kind}:{levels.pop()!r}" if len(levels) == 1 and levels != {0.0} else None
