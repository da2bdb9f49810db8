"""Modules of the DAG folder, as source text: imported on a rank when something asks for them."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any, Dict, Optional, Tuple

# Module name to (is a package, file it came from, source).
Sources = Dict[str, Tuple[bool, str, str]]


class SourceFinder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds modules in a table; asked last, so that what is installed wins, as on the worker."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def find_spec(self, fullname: str, *_: Any) -> Optional[importlib.machinery.ModuleSpec]:
        if fullname not in self._sources:
            return None
        is_package, file, _source = self._sources[fullname]
        return importlib.util.spec_from_loader(fullname, self, origin=file, is_package=is_package)

    def is_package(self, fullname: str) -> bool:
        return self._sources[fullname][0]

    def get_source(self, fullname: str) -> str:
        return self._sources[fullname][2]

    def exec_module(self, module: ModuleType) -> None:
        _, file, source = self._sources[module.__name__]
        module.__file__ = file
        exec(compile(source, file, "exec"), module.__dict__)  # noqa: S102 - importing is running


def install(sources: Sources) -> None:
    """Make the modules importable in this process."""
    if sources:
        sys.meta_path.append(SourceFinder(sources))
