"""The laboratory of unrelu: the paper's figures and claims, benchmarks against peers, training of its generators.

It is not part of what ``pip install unrelu`` installs. Where it is installed, ``unrelu reproduce`` and ``unrelu
benchmark`` are commands of it.
"""
