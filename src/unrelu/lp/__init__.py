"""Solvers of linear programs: HiGHS, interior-point steps, a compiled simplex (docs/notes/layer_programs.md)."""
