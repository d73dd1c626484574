"""What runs below the mathematics: files that may be hostile, processes, threads, random streams, host settings.

What was tried and why it is as it is: docs/notes/runs.md.
"""
