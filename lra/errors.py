"""Errors that users can fix themselves."""


class UserError(ValueError):
    """Invalid input, as one line: the field, its value and a hint.

    UserError("seed=-1: cannot be negative", hint="seed=0")  prints  seed=-1: cannot be negative; hint: seed=0
    """

    def __init__(self, problem: str, *, hint: str | None = None):
        super().__init__(problem if hint is None else f"{problem}; hint: {hint}")
