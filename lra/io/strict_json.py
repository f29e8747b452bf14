"""Strict JSON: refuses NaN, duplicate keys and wrong types in one line; lays files out for people to read and diff."""

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model


class StrictModel(BaseModel):
    """Immutable pydantic model: converts nothing but int to float, accepts neither NaN nor unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def read_text(path: Path) -> str:
    """The text of a file. ValueError, one line, if it cannot be read or is not UTF-8."""
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}; the file is damaged") from None


def decode(text: str) -> Any:
    """Parse JSON as the standard defines it: no NaN, no duplicate keys. ValueError, one line, otherwise."""
    try:
        content = json.loads(text, object_pairs_hook=_refuse_duplicates)
        require_json(content, "")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not JSON ({error.msg}); the file is damaged") from None
    return content


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {short(next(n for n in names if names.count(n) > 1))} occurs twice")
    return content


def require_json(value: Any, where: str) -> None:
    """Check that every JSON reader can hold `value`: finite numbers, integers of 64 bits, valid Unicode, string keys.

    raises ValueError naming the place below `where` and the value
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{where} has the key {short(key)}: text is expected")
            require_json(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            require_json(item, f"{where}[{i}]")
    elif not _is_json_scalar(value):
        raise ValueError(f"{where or 'the content'} is {short(value)}, which JSON cannot hold")


def _is_json_scalar(value: Any) -> bool:
    if isinstance(value, str):
        # half a surrogate pair can be decoded from JSON but not written again
        return value.isascii() or value.encode(errors="replace").decode() == value
    if isinstance(value, int):
        return abs(value) < 2**63
    # False for NaN
    return value is None or (isinstance(value, float) and abs(value) <= 1e300)


def check(value: Any, hint: Any, where: str) -> Any:
    """`value` converted to the type `hint`; ValueError, one line, naming the field below `where` and the value.

    hint  any type that pydantic knows; a dataclass is built from an object that has all of its fields and no others
    """
    require_json(value, where)
    kind = hint
    try:
        found = _adapter(hint).validate_python(value)
    except ValidationError as error:
        raise ValueError(one_line(error, where)) from None
    return kind(**dict(found)) if dataclasses.is_dataclass(hint) else found


@functools.cache
def _adapter(hint: Any) -> TypeAdapter:
    if dataclasses.is_dataclass(hint):
        fields: dict[str, Any] = {name: (kind, ...) for name, kind in typing.get_type_hints(hint).items()}
        return TypeAdapter(create_model(getattr(hint, "__name__", "fields"), __base__=StrictModel, **fields))
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return TypeAdapter(hint)
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def one_line(error: ValidationError, where: str = "") -> str:
    """The first problem of a pydantic error in one line: field, value and what is expected."""
    problem = error.errors(include_url=False, include_context=False)[0]
    place, kind = where, problem["type"]
    for part in problem["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    if kind == "missing":
        return f"{place} is missing"
    if kind == "extra_forbidden":
        return f"{place} is not a known field"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error" and not problem["loc"]:
        # the validator of a whole model names the field itself
        return f"{where}.{message}" if where else message
    return f"{place or 'the content'} is {short(problem['input'])}: {message[0].lower()}{message[1:]}"


def short(value: Any) -> str:
    """A value as one short line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def layout(content: Mapping[str, Any], *, lists: Sequence[str] = (), trees: Sequence[str] = ()) -> str:
    """JSON text that reads and diffs well: a line for each field and each item of `lists`; `trees` are indented.

    raises TypeError for a value that is not JSON, ValueError for a NaN
    """
    lines = []
    for name, value in content.items():
        if name in lists and value:
            text = "[\n" + ",\n".join("    " + _json(item) for item in value) + "\n  ]"
        else:
            text = _json(value, indent=2 if name in trees else None).replace("\n", "\n  ")
        lines.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
