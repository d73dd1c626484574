"""Linear programs that know no layers: HiGHS, the compiled interior-point steps and simplex methods."""

__all__: list[str] = []
