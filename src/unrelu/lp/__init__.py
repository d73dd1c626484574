"""Solvers of linear programs: HiGHS, interior-point steps and a compiled simplex method.

Experiments and reasons for the design: docs/notes/layer_programs.md.
"""
