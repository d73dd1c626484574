"""What runs below the mathematics: files that may be hostile, processes, threads, random streams, host settings."""

__all__: list[str] = []
