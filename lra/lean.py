"""Lightning without what it would load besides.

Lightning imports torchmetrics, and torchmetrics every optional package it finds: torchvision, transformers, matplotlib,
scipy.signal. Nothing here computes with any of its metrics, and together they were a third of every start.
`install` hides those packages from torchmetrics while it is imported, and from nothing else.
"""

import contextlib
import importlib.abc
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

OPTIONAL = ("torchvision", "torchaudio", "transformers", "matplotlib", "scipy")


class _Absent(importlib.abc.MetaPathFinder):
    """Says that packages are not there."""

    def __init__(self, names: Sequence[str]):
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not needed here", name=name)


@contextlib.contextmanager
def hidden(names: Sequence[str]) -> Iterator[None]:
    """No import finds these packages, nor does Lightning's own way to ask for them; those already loaded stay."""
    from lightning_utilities.core import imports

    names = [name for name in names if name not in sys.modules]
    finder, version = _Absent(names), imports._version

    def of_the_others(distribution_name: str) -> str:
        if distribution_name in names:
            raise importlib.metadata.PackageNotFoundError(distribution_name)
        return version(distribution_name)

    sys.meta_path.insert(0, finder)
    imports._version = of_the_others
    _forget(imports)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        imports._version = version
        _forget(imports)


def _forget(imports: ModuleType) -> None:
    """What Lightning remembers of packages asked for before."""
    for known in (imports.package_available, imports.module_available):
        getattr(known, "cache_clear", lambda: None)()


class _Lean(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchmetrics, once, and loads it with the others hidden."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "torchmetrics":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.own, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        with hidden(OPTIONAL):
            self.own.exec_module(module)


def install() -> None:
    """Take effect when torchmetrics is first imported; no effect if it has been."""
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, _Lean) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Lean())
