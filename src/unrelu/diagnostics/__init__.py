"""What can be said of a code that was found: its linear region, and whether the observation determines it there.

What was tried and why it is as it is: docs/notes/verdict.md.
"""
