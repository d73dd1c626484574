"""From a code down to a local optimum: Levenberg-Marquardt, compiled descents, linear programs around a code.

What was tried and why it is as it is: docs/notes/search.md.
"""
