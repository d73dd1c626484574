"""Read trained models as networks: PyTorch modules, state_dicts, ONNX files, and plain matrices.

Design notes: studies/notes/files.md.
"""

from unrelu.loaders._model_files import load
from unrelu.loaders._torch_graph import from_torch
from unrelu.loaders._weight_arrays import from_arrays

__all__ = ["from_arrays", "from_torch", "load"]
