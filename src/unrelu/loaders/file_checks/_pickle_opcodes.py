"""The stack machine of pickles, opcode by opcode, without making a single object of a file's own choice.

``pickletools`` decodes an opcode and its argument. What the opcode does is left to the reader: ``checkpoint`` looks at
it, and ``pickled_arrays`` makes numbers, text, containers and arrays.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, cast

# The mark of the stack.
_MARK: Any = object()


class BoundedStream:
    """A stream that never reads past its end. Python's reader would allocate the length that a string states."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        """Read up to ``count`` bytes."""
        return self._stream.read(max(0, min(count, self._size - self._stream.tell())))


class PickleStep(NamedTuple):
    """An opcode that makes or changes something.

    Attributes:
        name: of the opcode.
        argument: what follows it in the file; None if nothing does.
        taken: what it takes from the stack, lowest first.
        gives: whether it puts something back.
    """

    name: str
    argument: Any
    taken: list[Any]
    gives: bool


def steps(
    stream: IO[bytes] | BoundedStream, stack: list[Any], check: Callable[[int], None] | None = None
) -> Iterator[PickleStep]:
    """Yield the opcodes of a pickle; the caller puts on the ``stack`` what each one gives.

    Marks, the memo and copies of the top are dealt with here. ``check`` is called with the number of opcodes so far, of
    all kinds: each may take memory.

    Raises:
        ValueError, IndexError, KeyError: it is damaged.
    """
    memo: dict[Any, Any] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], stream))):
        if check is not None:
            check(count)
        name = opcode.name
        if name.endswith("PUT") or name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(_MARK)
        else:
            yield PickleStep(name, argument, _taken(stack, opcode), bool(opcode.stack_after))


def _taken(stack: list[Any], opcode: pickletools.OpcodeInfo) -> list[Any]:
    """Pop what an opcode takes from the stack; return it lowest first, without the mark."""
    before = [kind.name for kind in opcode.stack_before]
    taken: list[Any] = []
    if "mark" in before:
        while (item := stack.pop()) is not _MARK:
            taken.append(item)
        before = before[: before.index("mark")]
    for _ in before:
        taken.append(stack.pop())
    if any(item is _MARK for item in taken) and opcode.name != "POP":
        raise ValueError(f"{opcode.name} finds the mark in place of a value")
    return taken[::-1]
