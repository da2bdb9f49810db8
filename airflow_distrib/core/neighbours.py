"""Helpers beside a DAG file: the modules of the DAG folder that its code imports, as source text.

Nothing is imported for it: a helper may be meant for the ranks only, and importing it on
the worker could do anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from airflow_distrib.runner.modules import Sources


def sources(file: Path, folders: Iterable[Path]) -> Sources:
    """Collect what ``file`` imports from ``folders``, at its top or inside functions.

    A package comes whole, for its relative imports. What the helpers import from the
    folders in turn is collected too.
    """
    places = list(folders)
    found: Sources = {}
    waiting = [_text(file)]
    seen: set[str] = set()
    while waiting:
        for name in _roots(waiting.pop()):
            if name not in seen:
                seen.add(name)
                modules = _modules(name, places)
                found |= modules
                waiting += [source for _, _, source in modules.values()]
    return found


def _roots(source: str) -> Iterator[str]:
    """First parts of the names that source code imports; relative imports stay inside a package."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def _modules(name: str, folders: list[Path]) -> Sources:
    """A module or whole package of that name in the first folder that has one."""
    for folder in folders:
        package, module = folder / name, folder / f"{name}.py"
        if package.is_dir() and any(package.glob("*.py")):
            return dict(_package(name, package))
        if module.is_file():
            return {name: (False, str(module), _text(module))}
    return {}


def _package(name: str, folder: Path) -> Iterator[tuple[str, tuple[bool, str, str]]]:
    # Without an __init__.py it is a namespace package, which needs none.
    init = folder / "__init__.py"
    yield name, (True, str(init), _text(init))
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" and path != init:
            yield f"{name}.{path.stem}", (False, str(path), _text(path))
        elif path.is_dir() and path.name.isidentifier() and any(path.rglob("*.py")):
            yield from _package(f"{name}.{path.name}", path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
