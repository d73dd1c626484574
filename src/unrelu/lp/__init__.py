"""Solvers of linear programs: HiGHS, interior-point steps, a compiled simplex (studies/notes/layer_programs.md)."""
