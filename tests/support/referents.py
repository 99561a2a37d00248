"""Search of everything that an object keeps in memory."""

import gc
from collections.abc import Iterator


def kept_by(kept: object) -> Iterator[object]:
    """Give an object and all that it refers to, without modules, functions and classes."""
    seen: set[int] = set()
    left: list[object] = [kept]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type) or type(one).__name__ in ("module", "function"):
            continue
        seen.add(id(one))
        yield one
        if not (isinstance(one, dict) and "__builtins__" in one):
            left += gc.get_referents(one)
