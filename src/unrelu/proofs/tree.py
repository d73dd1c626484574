"""The tree of a branch and bound: which decisions make a part of the code space, and what was proved of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from unrelu.proofs.program import Basis
from unrelu.proofs.safe_bounds import Multipliers

__all__ = ["Node", "Packed", "Tree"]

Array = npt.NDArray[np.float64]
Signs = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Packed:
    """Multipliers without their zeros: kappa and s in one row."""

    index: npt.NDArray[np.int32]
    value: Array
    outputs: int
    total: int

    @classmethod
    def of(cls, multipliers: Multipliers) -> Packed:
        """Leave out the zeros."""
        row = np.concatenate([multipliers.kappa, multipliers.slopes])
        index = np.flatnonzero(row)
        return cls(index.astype(np.int32), row[index], len(multipliers.kappa), len(multipliers.slopes))

    def unpacked(self) -> Multipliers:
        """With the zeros."""
        row = np.zeros(self.outputs + self.total)
        row[self.index] = self.value
        return Multipliers(row[: self.outputs], row[self.outputs :])


@dataclass(eq=False)
class Node:
    """A part of the code space: the decisions of its ancestors and its own.

    About 4 KB for 20-60-784 while it is open, 2 KB when it is closed, 200 bytes when it has children.

    Attributes:
        parent: its number, -1 for the root.
        neuron, sign: the decision that made it, counted through; -1, 0 for the root.
        bound: the lower bound of F in it, by the solver while it is open.
        level: of the relaxation that it was solved with.
        packed: the multipliers that the bound follows from.
        children: numbers of the two nodes that it was split into, or empty.
        basis, point: of its solution, while it is open.
    """

    parent: int
    neuron: int
    sign: int
    bound: float = 0.0
    level: float = 0.0
    packed: Packed | None = None
    children: tuple[int, ...] = ()
    basis: Basis | None = field(default=None, repr=False)
    point: Array | None = field(default=None, repr=False)

    def unpacked(self) -> Multipliers:
        """Its multipliers, with their zeros.

        Raises:
            ValueError: it was never solved, or has been split.
        """
        if self.packed is None:
            raise ValueError("a node that was split has no multipliers")
        return self.packed.unpacked()


class Tree:
    """The nodes in the order in which they were made; the root has number 0.

    Args:
        neurons: how many there are, counted through.
    """

    def __init__(self, neurons: int) -> None:
        self.nodes: list[Node] = []
        self._neurons = neurons

    def __len__(self) -> int:
        return len(self.nodes)

    def add(self, parent: int, neuron: int, sign: int) -> int:
        """A new node; returns its number."""
        self.nodes.append(Node(parent, neuron, sign))
        return len(self.nodes) - 1

    def signs(self, number: int) -> Signs:
        """The decisions that make a node, for every neuron."""
        signs = np.zeros(self._neurons, dtype=np.int8)
        while number >= 0:
            node = self.nodes[number]
            if node.neuron >= 0:
                signs[node.neuron] = node.sign
            number = node.parent
        return signs

    def split(self, number: int, children: tuple[int, int]) -> None:
        """Give a node its children; what it was solved with is forgotten."""
        node = self.nodes[number]
        node.children, node.basis, node.point, node.packed = children, None, None, None

    def leaves(self) -> list[int]:
        """Numbers of the nodes without children: together they cover everything."""
        return [number for number, node in enumerate(self.nodes) if not node.children]
