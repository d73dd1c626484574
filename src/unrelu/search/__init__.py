"""The joint search for the best code: samples, independent restarts of descents, confidence, other norms.

What was tried and why it is as it is: docs/notes/search.md.
"""
