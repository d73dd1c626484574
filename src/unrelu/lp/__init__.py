"""Linear programs that know no layers: HiGHS, the compiled interior-point steps and simplex methods.

What was tried and why it is as it is: docs/notes/layer_programs.md.
"""
