"""Older records, brought to the form of today's."""

from collections.abc import Callable
from typing import Any

from lra.io.strict_json import short

SCHEMA = 3
# version n -> the function that turns a version n file's content into version n + 1
MIGRATIONS: dict[int, Callable[[dict], dict]] = {
    1: lambda content: {**content, "flops": None},
    # no version 2 record had examples, whose form is another since
    2: lambda content: {**content, "kernels": []},
}


def migrate(content: Any) -> dict:
    """Bring the content of an older record to today's schema, one version at a time."""
    if not isinstance(content, dict):
        raise ValueError(f"a record is a JSON object, not {short(content)}")
    version = content.get("schema")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"schema is {short(version)}: a whole number from 1 to {SCHEMA} is expected")
    if version > SCHEMA:
        raise ValueError(f"schema is {short(version)}, newer than {SCHEMA}: update this repository to read it")
    while version < SCHEMA:
        try:
            content = MIGRATIONS[version](content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"cannot be brought from schema {version} to {version + 1} ({error!r})") from None
        version += 1
        content["schema"] = version
    return content
