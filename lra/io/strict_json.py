"""Typed JSON files: decoded strictly, checked against type hints, written whole or not at all."""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lra.io.atomic import write_whole

JSON: dict[type, Any] = {dict: dict[str, Any], list: list[Any]}
NAMES = {list: "a list", dict: "an object", int: "a whole number", float: "a finite number", bool: "true or false"}


def read_text(path: Path) -> str:
    """The text of a file. ValueError, one line, if it cannot be read or is not UTF-8."""
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}; the file is damaged") from None


def decode(text: str) -> Any:
    """JSON as the standard has it: no NaN, no field twice. ValueError, one line, otherwise."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: not JSON ({error.msg}); the file is damaged") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"field {short(next(n for n in names if names.count(n) > 1))} is there twice")
    return content


def check(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`, dataclasses built from objects; ValueError naming the field and the value.

    Knows str, int, float, bool, Any (any JSON), list, dict with string keys, Literal, X | None and dataclasses.
    A bool is no number, an int may stand for a float, no float is NaN or infinite.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _check_object(value, typing.cast(type, hint), where)
    if origin is Literal:
        if isinstance(value, str) and value in arguments:
            return value
        raise ValueError(f"{where} is {short(value)}: one of {', '.join(arguments)} is expected")
    if origin is types.UnionType:
        return None if value is None else check(value, next(a for a in arguments if a is not types.NoneType), where)
    if hint is Any:
        if value is None:
            return None
        return check(value, JSON.get(type(value), type(value)), where)
    if origin is list and isinstance(value, list):
        return [check(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {check(k, str, f"a key of {where}"): check(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if _is_scalar(value, hint):
        return value
    raise ValueError(f"{where} is {short(value)}: {NAMES.get(origin or hint, 'text')} is expected")


def _is_scalar(value: Any, hint: type) -> bool:
    if hint is str:
        # half a surrogate pair can be decoded from JSON but not be written again
        return isinstance(value, str) and value.encode(errors="replace").decode() == value
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    if hint is int:
        return isinstance(value, int) and abs(value) < 2**63
    # false for NaN too, and for a whole number beyond the range of floats
    return hint is float and isinstance(value, int | float) and abs(value) <= 1e300


type_hints = functools.cache(typing.get_type_hints)


def _check_object(value: Any, cls: type, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'the content'} is {short(value)}: an object is expected")
    dot = where + "." if where else ""
    hints = type_hints(cls)
    for name in value:
        if name not in hints:
            raise ValueError(f"{dot}{short(name)} is not a field of a {cls.__name__}")
    for name in hints:
        if name not in value:
            raise ValueError(f"{dot}{name} is missing")
    return cls(**{name: check(value[name], hint, dot + name) for name, hint in hints.items()})


def short(value: Any) -> str:
    """A value as one short line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def layout(content: Mapping[str, Any], *, lists: Sequence[str] = (), trees: Sequence[str] = ()) -> str:
    """JSON text that reads and diffs well: a field a line, an item a line in `lists`, `trees` laid out.

    raises TypeError for a value that is neither JSON nor a numpy or torch scalar, ValueError for a NaN
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
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_scalar)


def _scalar(value: Any) -> Any:
    if getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"{short(value)} cannot be part of a JSON file")


def write_atomically(path: Path, text: str, *, cure: str = "") -> None:
    """A text file in UTF-8, put in place as `lra.io.atomic.write_whole` does."""
    write_whole(path, text.encode(), cure=cure)
