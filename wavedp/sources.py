"""The source of a module as one hash: what its code does, without comments, docstrings and layout.

It covers the module and what it imports, however far, of its own package; of a module in no package, what it imports
from its own folder. Other packages are not in it, nor is what is imported by a name made at run time. Python versions
may write one program's tree differently.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import sysconfig
from functools import cache
from pathlib import Path

from wavedp.errors import UserError

INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")}


@cache
def digest(module: str) -> str:
    """sha256 (hex) of an imported module's source. Raises UserError if the module is in no file."""
    found = sorted((name, code_hash(file)) for name, file in files(module).items())
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def files(module: str, leave: tuple[str, ...] = ()) -> dict[str, Path]:
    """{module: file} of an imported module and of those of its own that it imports, directly or not. leave: modules and
    packages that are not followed. Raises UserError if the module is in no file."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or "").absolute()
    if not file.is_file():
        raise UserError(f"the source of {module} is in no file, so that no key can hold it: write it to a module.")
    is_package = file.name == "__init__.py"
    root = file.parents[module.count(".") + is_package] if module != "__main__" else file.parent
    top = module.partition(".")[0]
    alone = not is_package and top == module
    found, todo = {module: file}, [(module, file)]
    while todo:
        for name in _imported(*todo.pop()):
            first = name.partition(".")[0]
            own = first == top or (alone and first != "wavedp" and root.resolve() not in INSTALLED)
            left = name in found or any(name == each or name.startswith(f"{each}.") for each in leave)
            there = _file(root, name) if own and not left else None
            if there is not None:
                found[name] = there
                todo.append((name, there))
    return found


def _imported(module: str, file: Path) -> set[str]:
    """The modules that a module may import, with the packages around them; some of the names may be no module."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    asked = _asked(file.read_bytes(), package) if file.suffix == ".py" else ()
    return {".".join(name.split(".")[:count]) for name in asked for count in range(1, name.count(".") + 2)}


@cache
def _asked(source: bytes, package: str) -> tuple[str, ...]:
    """What a module of `package` with this source names in its imports."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*around, node.module]))
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _file(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    return next((file for file in (base / "__init__.py", base.with_name(f"{base.name}.py")) if file.is_file()), None)


def code_hash(file: Path) -> str:
    """sha256 (hex) of the text of its syntax tree without docstrings; of its bytes, if it is not Python."""
    if file.suffix != ".py":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body[0] = ast.Pass()
    return hashlib.sha256(ast.unparse(tree).encode(errors="surrogatepass")).hexdigest()
