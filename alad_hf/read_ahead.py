"""Reading a stream ahead by a bounded amount, so that inputs of like length can share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(
    items: Iterable[Item], count: int, *, size_of: Callable[[Item], int], usual_size: int
) -> Iterator[list[Item]]:
    """Lists of `count` items, or of fewer where they are large, so that what is held at once has a bound.

    Args:
        items: Read as the lists are asked for.
        count: Most items of a list.
        size_of: How large an item is.
        usual_size: A list also ends with the item by which it is as large as `count` items of this size.

    Returns:
        An iterator over the lists. If reading fails, what was read before comes out first, and the error then.
    """
    held: list[Item] = []
    size = 0
    failure: Exception | None = None
    source = iter(items)
    while True:
        try:
            item = next(source)
        except StopIteration:
            break
        except Exception as error:
            failure = error
            break
        held.append(item)
        size += size_of(item)
        if len(held) == count or size >= count * usual_size:
            yield held
            held, size = [], 0
    if held:
        yield held
    if failure is not None:
        raise failure
