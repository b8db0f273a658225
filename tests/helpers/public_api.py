"""Find the exported members of a package, and run the examples in their docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import itertools
from collections.abc import Mapping
from types import ModuleType

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def exported_members(package: str) -> list[str]:
    """Members of a package that its users may import, but for dunder names."""
    return sorted(name for name in importlib.import_module(package).__all__ if not name.startswith("__"))


def examples_of(package: str, name: str) -> list[doctest.DocTest]:
    """The examples in the docstring of an exported member, and of its methods."""
    member = getattr(importlib.import_module(package), name)
    module = defining_module(package, name)
    names = {**vars(module), name: member}
    if inspect.isclass(member) or inspect.isfunction(member):
        found = doctest.DocTestFinder(exclude_empty=True).find(member, name, module, names)
    else:  # a type alias or a constant: the text below its assignment
        text = assignment_docstring(module, name)
        found = [doctest.DocTestParser().get_doctest(text, names, name, module.__file__, 0)]
    return [one for one in found if one.examples]


def defining_module(package: str, name: str) -> ModuleType:
    """The module in which a package says that a member is defined."""
    homes: dict[str, str] = vars(importlib.import_module(package))["_HOMES"]
    return importlib.import_module(f"{package}.{homes[name]}")


def assignment_docstring(module: ModuleType, name: str) -> str:
    """The text below the assignment of a name, or nothing."""
    body = ast.parse(inspect.getsource(module)).body
    for statement, following in itertools.pairwise(body):
        targets = (
            statement.targets
            if isinstance(statement, ast.Assign)
            else [statement.target]
            if isinstance(statement, ast.AnnAssign)
            else []
        )
        is_it = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if is_it and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            return inspect.cleandoc(str(following.value.value))
    return ""


def run_examples(examples: list[doctest.DocTest]) -> str:
    """Run examples; what they give that they should not."""
    output: list[str] = []
    for example in examples:
        doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(example, out=output.append)
    return "".join(output)


def import_error_of(package: str, old: str) -> str:
    """What an import of a module that moved says."""
    try:
        importlib.import_module(f"{package}.{old}")
    except ModuleNotFoundError as error:
        return str(error)
    return ""


def names_new_module(message: str, package: str, moved: Mapping[str, str], old: str) -> bool:
    """Whether a message names the new place of a module, itself or by that of its package."""
    if f"{package}.{old} is now {package}.{moved[old]}; import it from there" in message:
        return True
    parent, _, leaf = old.rpartition(".")
    if f"{package}.{parent} is now {package}.{moved.get(parent)}; import it from there" not in message:
        return False
    return moved[old] == f"{moved[parent]}.{leaf}" or f"{leaf} is now {package}.{moved[old]}" in message


def members_without_example(package: str) -> list[str]:
    """Exported members of which nobody shows how to use them."""
    return [name for name in exported_members(package) if not examples_of(package, name)]


def without_checks(package: str) -> list[str]:
    """Exported functions and options whose arguments are not checked by type, or that have unknown annotations."""
    module, missing = importlib.import_module(package), []
    for name in exported_members(package):
        member = getattr(module, name)
        if inspect.isclass(member) and name.endswith(("Options", "Config", "Limits")):
            member = member.__init__
        if inspect.isfunction(member):
            checks = getattr(member, "checks_types", None)
            if checks is None or not checks():
                missing.append(name)
    return missing
