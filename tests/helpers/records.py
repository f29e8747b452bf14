"""Changed copies of records, for tests."""

from typing import TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def scored(correct: int, n: int) -> dict[str, object]:
    """Fields of a record whose test had `correct` of n examples right."""
    return {"test_score": correct / n, "test_totals": {"correct": correct, "examples": n}}


def replace(model: Model, /, **changes: object) -> Model:
    """A validated copy with some fields changed (pydantic's `model_copy` does not validate)."""
    return type(model).model_validate({**dict(model), **changes})
