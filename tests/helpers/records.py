"""Changed copies of records, for tests."""

from typing import TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def replace(model: Model, /, **changes: object) -> Model:
    """A validated copy with some fields changed (pydantic's `model_copy` does not validate)."""
    return type(model).model_validate({**dict(model), **changes})
