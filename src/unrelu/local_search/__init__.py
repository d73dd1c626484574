"""Descents from a code to a local optimum: Levenberg-Marquardt, compiled descents, linear programs around a code.

Experiments and reasons for the design: studies/notes/search.md.
"""
