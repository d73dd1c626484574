"""Generators whose layers are not known: PyTorch modules and functions."""
