<<<<<<< HEAD
"""The joint search for the best code: samples, independent restarts of descents, confidence, other norms."""
=======
"""The joint search for the best code: samples, independent chains of descents, confidence, other norms.
>>>>>>> a5a869c (The design page becomes architecture and notes by subject)

What was tried and why it is as it is: docs/notes/search.md.
"""
