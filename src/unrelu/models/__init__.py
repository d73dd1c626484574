"""Generators: activations, affine maps, networks whose layers are known, and opaque ones."""

__all__: list[str] = []
