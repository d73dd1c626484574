"""Data sets of observations and of masks: anything with a shape, a type and slices, wherever it is stored.

Experiments and reasons for the design: studies/notes/runs.md.
"""
