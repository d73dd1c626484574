"""The numbers that decide a verdict: when a code explains the data, fits exactly, or is the best with confidence.

Numbers of a single test, such as the fewest entries that it takes, are kept beside that test.
"""

from __future__ import annotations

# From this p-value on, a code explains y under the stated noise.
SIGNIFICANCE = 0.01
# From this confidence on, a search is sure: it stops, and without stated noise its answer may be a success.
CONFIDENT = 0.99
# The confidence compares a code with codes up to this multiple of sqrt(k), the length of codes of N(0, I), or up to its
# own length. Where outputs saturate, codes hundreds of times as long may fit a little better data that the generator
# did not make.
RADIUS = 10.0
# Objectives that differ by at most this share are the same optimum, and a code is the best if none is lower by more.
SAME_OPTIMUM = 1e-2
# A code is a local optimum to this share of the objective.
LOCAL_OPTIMUM = 1e-5
# A fit is exact up to a residual of this share of max|y|; for data in single precision, of their rounding error.
EXACT_FIT_TOLERANCE = 1e-8
# Entries that are outside the range of the output's activation by more than this share of max|y| have noise.
OUT_OF_RANGE_TOLERANCE = 1e-9
# Without stated noise, a success needs a probability of at most this that white noise would be fitted as well.
CHANCE = 1e-3
# The probability that a batch with one noise level has any residual that counts as an outlier.
FALSE_ALARM = 1e-3
# A Laplace approximation holds if the shares of the posterior in its ellipsoids differ from their levels by at most
# this times the binomial deviation of one draw. Where it holds, for ten emulators, coverage is within .05, and at most
# one truth in 1,000 is beyond the ellipsoid of 99.99%.
COVERAGE_SHORTFALL = 0.2
