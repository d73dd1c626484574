"""What runs below the mathematics: files that may be hostile, processes, threads, random streams, host settings."""
