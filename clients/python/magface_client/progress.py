"""A progress bar for `rebase`; it needs the extra ``progress``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress

from magface_client.rebasing import RebaseProgress


@contextmanager
def progress_bar() -> Iterator[Callable[[RebaseProgress], None]]:
    """Show a bar at the terminal; yields the ``progress`` of `rebase`."""
    with Progress() as bar:
        task = bar.add_task("embedding", total=None)

        def show(now: RebaseProgress) -> None:
            bar.update(
                task,
                description=f"{now.model_version}, {now.failed} failed",
                completed=now.saved + now.failed,
                total=now.total,
            )

        yield show
