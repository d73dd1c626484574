"""Solvers of linear programs: HiGHS, compiled interior-point steps and simplex methods.

Experiments and reasons for the design: docs/notes/layer_programs.md.
"""
