"""Trained models as networks: PyTorch modules, state_dicts, ONNX files and plain matrices."""

from unrelu.loaders.arrays import from_arrays
from unrelu.loaders.files import load
from unrelu.loaders.torch_graph import from_torch

__all__ = ["from_arrays", "from_torch", "load"]
