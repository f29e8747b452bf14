"""Spans of time, as they are said and as they pass between two lines of something that goes on."""


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
