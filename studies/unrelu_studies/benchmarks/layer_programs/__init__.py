"""Layer programs and whole networks: time and exactness against other solvers."""
