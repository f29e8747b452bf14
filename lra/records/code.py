"""Fingerprint of the source code behind a run: its model and task, and the numerical parts of the framework.

Imports are followed in the source, without importing anything. Comments, docstrings and formatting do not count. The
sources of data (`data.source`, generators, ...) are left out: what they do shows in the fingerprint of the data.
"""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lra import paths
from lra.records.record import MOVED, Code, renamed

LEARNER = "lra.training.learner"
PRETRAINING = "lra.training.pretraining"
DISPATCH = "lra.ops.ssm_kernels.dispatch"
CHOOSERS = (DISPATCH, "lra.objectives.objective")  # choose among all files of their folder
CPP_LIBRARY = "lra.ops.cpp_library"  # builds the files of csrc
FRAMEWORK = re.compile(r"lra\.task|data\.(loader|datamodule)|lra\.(nn|ops|training|objectives)(\..*)?")
NOT_NUMERICAL = re.compile(r"lra\.training\.(checkpoint|trainer|progress_bar|learning_curve)|.*\.significance")
LEFT_OUT = re.compile(r"lra(\..*)?|data|data\.(download|duplicates|verify|prepared|source|tokenizer|generators)(\..*)?")
CPP_TOKEN = re.compile(r"""("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|//[^\n]*|/\*.*?\*/|\s+""", re.DOTALL)

Files = dict[str, dict[str, str]]  # "model" and "framework" -> path -> hash of the file

_hashes: dict[tuple[Path, int, int], tuple[str, tuple[str, ...]]] = {}


def code_fingerprint(config: Mapping[str, Any]) -> Code:
    """Fingerprint of the code that a configuration (its sections `task` and `model`) runs through, as it is now."""
    return fingerprint_of(code_files(config))


def fingerprint_of(files: Files) -> Code:
    model, framework = (_short_hash(repr(sorted(files[part].items()))) for part in ("model", "framework"))
    return Code(model=model, framework=framework)


def code_files(config: Mapping[str, Any]) -> Files:
    """Hashes of the files behind `code_fingerprint`; a file outside of the project is named by its module."""
    targets = [target.rpartition(".")[0] for target in _targets(renamed(dict(config), MOVED))]
    outside = (_outside(name) for name in targets if _find(name, [paths.ROOT]) is None)
    roots = [paths.ROOT, *filter(None, outside)]
    found: Files = {"model": {}, "framework": {}}
    seen: set[str] = set()
    _follow(targets, roots, seen, found)
    # the learner only asks the kernels' dispatch which backends ran
    seen.add(DISPATCH)
    _follow([LEARNER, PRETRAINING] if config.get("pretrain") else [LEARNER], roots, seen, found)
    return found


def _follow(starts: list[str], roots: list[Path], seen: set[str], found: Files) -> None:
    """Add the hashes of these modules and of all that they import."""
    # what is not below these belongs to a library, whose version the record states
    ours = [root for root in roots if "site-packages" not in root.parts]
    todo = list(starts)
    while todo:
        name = todo.pop()
        if name in seen or (part := _part_of(name)) is None:
            continue
        seen.add(name)
        if (path := _find(name, roots)) is None:
            found[part][name] = "missing"
            continue
        own = path.is_relative_to(paths.ROOT) and "site-packages" not in path.parts
        digest, imports = _read(path, name)
        found[part][_relative(path) if own else name] = digest
        todo += [module for module in imports if _find(module, ours) is not None]
        if name in CHOOSERS:
            files = (p for p in path.parent.rglob("*.py") if p.stem != "significance")
            found[part] |= {_relative(p): _read(p, "")[0] for p in files}
        if name == CPP_LIBRARY:
            found[part] |= {_relative(p): _read(p, "")[0] for p in path.with_name("csrc").iterdir()}


def changes(before: Files, now: Files) -> str | None:
    """Which code differs, in words, with the files; None if none does."""
    lines = []
    for part in ("model", "framework"):
        a, b = before.get(part, {}), now[part]
        if different := sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name)):
            lines.append(f"{part} code ({', '.join(different[:3])}{', ...' if len(different) > 3 else ''})")
    return " and ".join(lines) or None


def _targets(node: Any) -> Iterator[str]:
    """Full names of the classes in the sections task and model."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "_target_" and isinstance(value, str):
            yield value
        yield from _targets(value)


def _part_of(module: str) -> str | None:
    if FRAMEWORK.fullmatch(module) and not NOT_NUMERICAL.fullmatch(module):
        return "framework"
    return None if LEFT_OUT.fullmatch(module) else "model"


def _find(module: str, roots: list[Path]) -> Path | None:
    """The file of a module below one of the roots."""
    for root in roots:
        path = root.joinpath(*module.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def _outside(module: str) -> Path | None:
    """The folder of a top-level module that is not part of the project."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])  # of the top level only: this imports nothing
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return Path(spec.origin).parents[1 if spec.submodule_search_locations else 0]


def _relative(path: Path) -> str:
    return path.relative_to(paths.ROOT).as_posix()


def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a file and the modules it imports; cached until the file changes."""
    state = path.stat()
    key = path, state.st_mtime_ns, state.st_size
    if key not in _hashes:
        text = path.read_text(encoding="utf-8", errors="replace")
        imports: tuple[str, ...] = ()
        if path.suffix != ".py":
            content = CPP_TOKEN.sub(lambda token: token[1] or "", text)
        else:
            try:
                tree = ast.parse(text)
            except SyntaxError:
                content = text
            else:
                package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                imports = tuple(dict.fromkeys(_imports(tree, package)))
                words: list[str] = []
                _write(tree, words)
                content = " ".join(words)
        _hashes[key] = _short_hash(content), imports
    return _hashes[key]


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:i]) for i in range(1, len(parts) + 1))


def _write(node: Any, words: list[str]) -> None:
    """A syntax tree as words: without positions, docstrings and fields that only some versions of Python have."""
    if isinstance(node, ast.AST):
        words.append(type(node).__name__)
        words.append("(")
        for name, value in ast.iter_fields(node):
            if value is None or value == [] or name in ("ctx", "kind", "type_ignores", "type_comment"):
                continue
            words.append(name)
            _write(value, words)
        words.append(")")
    elif isinstance(node, list):
        words.append("[")
        for item in node:
            if not _has_no_effect(item):
                _write(item, words)
        words.append("]")
    else:
        words.append(repr(node))


def _has_no_effect(node: Any) -> bool:
    """Whether a statement is `pass` or a docstring."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
