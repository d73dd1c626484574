"""``python -m unrelu``: the command line."""

from unrelu.cli.process import main

if __name__ == "__main__":
    main()
