"""Errors that a user can mend."""


class UserError(ValueError):
    """A mistake in what the user gave: one line that names the thing, the value and the way out.

    UserError("seed=-1: cannot be negative", hint="seed=0")  prints  seed=-1: cannot be negative; hint: seed=0
    """

    def __init__(self, problem: str, *, hint: str | None = None):
        super().__init__(problem if hint is None else f"{problem}; hint: {hint}")
