"""The commands of the command line, and what they show.

Nothing is imported here: the process around the commands has to be able to hear Ctrl-C before they are.
"""
