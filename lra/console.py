"""Console output on stderr: messages, progress bars, durations."""

import contextlib
from collections.abc import Callable, Iterator

import rich.progress
from rich.console import Console

_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one line."""
    _console.print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def progress_bar(
    text: str, total: int | None, *, done: int = 0, in_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """Progress bar; yields a function that advances it by a number of units.

    total  None if unknown
    done   units done before, as when a download is resumed
    """
    r = rich.progress
    amount = r.DownloadColumn() if in_bytes else r.MofNCompleteColumn()
    columns = (r.TextColumn("{task.description}"), r.BarColumn(), amount)
    with r.Progress(*columns, r.TimeElapsedColumn(), r.TimeRemainingColumn(), console=_console) as progress:
        task = progress.add_task(text, total=total, completed=done)
        yield lambda n: progress.advance(task, n)


def as_increments(advance: Callable[[int], object]) -> Callable[[int, int], None]:
    """Adapter for the generators' callback (done, total): calls `advance` with the difference to the call before."""
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


def log_interval(elapsed: float, least: float, most: float) -> float:
    """Seconds between two progress lines without a terminal: 1 % of the elapsed time, within limits."""
    return min(most, max(least, elapsed / 100))
