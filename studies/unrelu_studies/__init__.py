"""The studies of unrelu: the paper's figures and claims, benchmarks against peers, training of the bundled generators.

``pip install unrelu`` does not install it. It adds the commands ``unrelu reproduce`` and ``unrelu benchmark``.
"""
