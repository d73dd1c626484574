"""The commands of the command line and their output.

Nothing is imported here, because the process has to handle Ctrl-C before the commands are imported.
"""
