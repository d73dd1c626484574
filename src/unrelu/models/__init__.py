"""Generators: activations, affine maps, networks whose layers are known, and opaque ones.

studies/notes/generators.md records the alternatives that were tried, and the reasons for the present design.
"""
