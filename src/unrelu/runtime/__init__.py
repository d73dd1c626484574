"""Services below the mathematics: safe reading and writing of files, processes, threads, random streams, host settings.

studies/notes/runs.md records the alternatives that were tried, and the reasons for the present design.
"""
