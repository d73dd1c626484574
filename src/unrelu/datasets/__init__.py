"""Data sets of observations and of masks: anything with a shape, a type and slices, wherever it is stored.

What was tried and why it is as it is: studies/notes/runs.md.
"""
