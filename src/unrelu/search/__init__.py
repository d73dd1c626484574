"""The joint search for the best code: samples, independent restarts of descents, confidence, other norms.

Experiments and reasons for the design: studies/notes/search.md.
"""
