"""Trained models as networks: PyTorch modules, state_dicts, ONNX files and plain matrices.

What was tried and why it is as it is: docs/notes/files.md.
"""

from unrelu.loaders.model_files import load
from unrelu.loaders.torch_graph import from_torch
from unrelu.loaders.weight_arrays import from_arrays

__all__ = ["from_arrays", "from_torch", "load"]
