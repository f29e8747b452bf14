"""What a person sees while work goes on: one-line messages, progress bars, durations. All on stderr."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for the person who waits."""
    _console.print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def bar(text: str, total: int | None, *, done: int = 0, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields a function that is told how much was done since it was last called.

    total  None where it is not known
    done   what was there before, as when a download goes on
    """
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console) as progress:
        task = progress.add_task(text, total=total, completed=done)
        yield lambda n: progress.advance(task, n)


def steps(advance: Callable[[int], object]) -> Callable[[int, int], None]:
    """The generators report (done, total), a bar wants what was added."""
    before = 0

    def progress(done: int, total: int) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return progress


def duration(seconds: float) -> str:
    """3 s, 12 min, 4.5 h, 3.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def pause(spent: float, least: float, most: float) -> float:
    """Seconds until the next line where there is no terminal: a hundredth of those spent so far, within limits.

    What takes minutes is followed closely, and what takes days does not fill its log.
    """
    return min(most, max(least, spent / 100))
