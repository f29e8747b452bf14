"""Converts records of older schema versions to the current one."""

from collections.abc import Callable
from typing import Any

from lra.io.strict_json import short

SCHEMA = 5


def _with_objective(content: dict) -> dict:
    """Accuracies and counts of a classification become the scores and totals of an objective."""
    old = ("val_accuracy", "test_accuracy", "test_correct", "n_test", "last_test_accuracy")  # the last was never set
    kept = {name: value for name, value in content.items() if name not in old}
    totals = {"correct": content["test_correct"], "examples": content["n_test"]}
    points = [{RENAMED.get(name, name): value for name, value in point.items()} for point in content["curve"]]
    return {
        **kept,
        "objective": "classification",
        "data": {RENAMED.get(name, name): value for name, value in content["data"].items()},
        "val_score": content["val_accuracy"],
        "test_score": content["test_accuracy"],
        "test_totals": None if None in totals.values() else totals,
        "curve": points,
    }


RENAMED = {"chance": "trivial", "train_accuracy": "train_score", "val_accuracy": "val_score"}
# version n -> function that converts the content of a version n file to version n + 1
MIGRATIONS: dict[int, Callable[[dict], dict]] = {
    1: lambda content: {**content, "flops": None},
    # no record of version 2 had examples, whose format changed as well
    2: lambda content: {**content, "kernels": []},
    3: lambda content: {**content, "code": None},
    4: _with_objective,
}


def migrate(content: Any) -> dict:
    """The fields of a record in today's schema, without the version number; ValueError for an unknown version."""
    if not isinstance(content, dict):
        raise ValueError(f"a record is a JSON object, not {short(content)}")
    version = content.get("schema")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"schema is {short(version)}: a whole number from 1 to {SCHEMA} is expected")
    if version > SCHEMA:
        raise ValueError(f"schema is {version}, newer than {SCHEMA}; hint: update this repository")
    for older in range(version, SCHEMA):
        try:
            content = MIGRATIONS[older](content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"cannot be converted from schema {older} to {older + 1} ({error!r})") from None
    return {name: value for name, value in content.items() if name != "schema"}
