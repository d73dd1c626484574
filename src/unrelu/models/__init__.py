"""Generators: activations, affine maps, networks whose layers are known, and opaque ones.

What was tried and why it is as it is: docs/notes/generators.md.
"""
