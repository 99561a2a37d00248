"""Search of everything that an object keeps in memory."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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


@contextmanager
def left_behind(*kinds: type) -> Iterator[Callable[[], list[object]]]:
    """Give a function that finds new objects of some classes; nothing is collected in the block."""
    gc.collect()
    # Other tests of the process may have such objects; kept, so that their ids stay theirs.
    before = _objects(kinds)
    known = {id(one) for one in before}
    gc.disable()
    try:
        yield lambda: [one for one in _objects(kinds) if id(one) not in known]
    finally:
        gc.enable()
        before.clear()


def _objects(kinds: tuple[type, ...]) -> list[object]:
    return [one for one in gc.get_objects() if type(one) in kinds]
