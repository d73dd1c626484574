"""Generators whose layers are not known: modules and functions of PyTorch."""
