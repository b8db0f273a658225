"""Import public names when they are first used, and name the new place of modules that moved."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from m2l_runtime.errors import EngineNotInstalled


def lazy_attributes(
    package: str,
    homes: Mapping[str, str],
    *,
    needs: Sequence[str] = (),
    hint: str = "",
    renamed: Mapping[str, str] | None = None,
) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package whose public names are imported when they are first used.

    A program that needs one of them then loads neither NumPy nor an engine for the others.

    Example:
        >>> getattribute = lazy_attributes("m2l_runtime", {"M2LError": "errors"})
        >>> getattribute("M2LError").__name__
        'M2LError'
        >>> getattribute = lazy_attributes("m2l_runtime", {}, renamed={"Way": "BenchConfig"})
        >>> getattribute("Way")
        Traceback (most recent call last):
        ImportError: m2l_runtime.Way is now m2l_runtime.BenchConfig

    Args:
        package: full name of the package.
        homes: the module of each public name, relative to the package.
        needs: third-party packages that an extra installs.
        hint: what the error says where one of `needs` is missing; ``{}`` stands for its name.
        renamed: new name by old name, of public names that have vanished.

    Returns:
        A function from a name to its value. It raises `AttributeError` for unknown names, `EngineNotInstalled` where
        one of `needs` is missing, and `ImportError` for a name that has vanished. (``from package import name`` would
        replace the words of an `AttributeError` by its own.)
    """
    vanished = renamed or {}

    def getattribute(name: str) -> Any:
        if name in vanished and name not in homes:
            raise ImportError(f"{package}.{name} is now {package}.{vanished[name]}", name=name)
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        try:
            value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in needs:
                raise
            raise EngineNotInstalled(hint.format(error.name)) from error
        setattr(sys.modules[package], name, value)
        return value

    return getattribute


class _MovedModules:
    """Answer imports of modules that moved with an error that names the new place."""

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = moved

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse a moved module; see importlib.abc.MetaPathFinder. It is the last finder, so it is asked only then."""
        if name in self.moved:
            self.refuse(name)

    def refuse(self, name: str) -> NoReturn:
        new = self.moved[name]
        # An import of a module in a package asks for the package first, so its message speaks of both.
        inside = [
            f"{old.rpartition('.')[2]} is now {place}"
            for old, place in self.moved.items()
            if old.rpartition(".")[0] == name and place != f"{new}.{old.rpartition('.')[2]}"
        ]
        more = f" (of its modules, {', '.join(inside)})" if inside else ""
        raise ModuleNotFoundError(f"{name} is now {new}; import it from there{more}", name=name)


def announce_moved_modules(package: str, moved: Mapping[str, str]) -> None:
    """Make imports of old module names fail with an error that gives the new name.

    Args:
        package: full name of the package that both names are relative to.
        moved: new module by old module.
    """
    table = {f"{package}.{old}": f"{package}.{new}" for old, new in moved.items()}
    sys.meta_path.append(_MovedModules(table))
