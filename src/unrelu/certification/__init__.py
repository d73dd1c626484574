"""What can be proved about a code that was found.

What was tried and why it is as it is: docs/notes/proofs.md.
"""
