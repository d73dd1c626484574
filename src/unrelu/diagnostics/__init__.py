"""Diagnostics of a code: its linear region, whether the observation determines it there, and the goodness of fit.

studies/notes/verdict.md records the alternatives that were tried, and the reasons for the present design.
"""
