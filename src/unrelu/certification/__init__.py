"""Certification: proved bounds on the smallest error over all codes.

studies/notes/proofs.md records the alternatives that were tried, and the reasons for the present design.
"""
