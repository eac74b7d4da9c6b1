"""What code does, as a digest: the syntax trees of modules and of all of the package that they import.

What does nothing to a result does not count: docstrings, comments, layout, the order of imports, the words of raised
errors. What is imported by a name that is computed (a family, a step of the command line) is a root of its own.
Every command asks for fingerprints, so only the standard library is needed here, and each file is read as Python once
a process.
"""

import ast
import functools
import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from headimpact.errors import InputError

PACKAGE = "headimpact"
FAMILIES = f"{PACKAGE}.vlm.families"
DIGITS = 16

Stop = Callable[[str], bool] | Collection[str]
"""Modules that are not followed: their names, or a function that says of a name whether it is one."""

# What a string is read as where an error is raised.
_TEXT = "''"
_BLOCKS = frozenset(("body", "orelse", "finalbody"))


def closure(roots: Iterable[str], stop: Stop, source: Path) -> list[str]:
    """The modules that are reached from ``roots`` by the import statements of the package, sorted.

    Imports within functions count, those below ``if TYPE_CHECKING:`` do not. The packages around a module are reached
    with it, but for ``headimpact`` itself, which imports nothing before it is asked to.

    Args:
        roots: full names of modules; they count also where ``stop`` names them.
        stop: modules that neither count nor are followed.
        source: the folder that holds the package.

    Raises:
        InputError: a file is not valid Python; a module of the package is imported, or is a root, and has no file.
    """
    return sorted(_reached(roots, stop, source))


def fingerprint(roots: Iterable[str], stop: Stop, source: Path) -> str:
    """What the modules of the :func:`closure` do: 16 hexadecimal digits of a SHA-256 over their names and their trees.

    A module without a statement that does something contributes nothing, not even its name. The digits do not depend
    on the version of Python that reads the files.

    Raises:
        InputError: as for :func:`closure`.
    """
    digest = hashlib.sha256()
    for name, module in sorted(_reached(roots, stop, source).items()):
        if module.digest is not None:
            digest.update(f"{name.removeprefix(f'{PACKAGE}.')} {module.digest}\n".encode())
    return digest.hexdigest()[:DIGITS]


def family_modules(family: str, source: Path) -> list[str]:
    """The modules of a family, to be roots: read from ``FAMILIES``, without an import.

    The dictionary gets a line with every new family. So that the results of the others stay current, ``FAMILIES`` (the
    module) belongs among the modules that are stopped.

    Raises:
        KeyError: there is no such family.
        InputError: the file is not valid Python, or ``FAMILIES`` is not written out in it.
    """
    path = source.joinpath(*FAMILIES.split("."), "__init__.py")
    for statement in _parse(path.read_bytes(), path).body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id="FAMILIES")], value=ast.Dict() as families)
                | ast.AnnAssign(target=ast.Name(id="FAMILIES"), value=ast.Dict() as families)
            ):
                return [f"{FAMILIES}.{_literal(families, path)[family].split(':')[0]}"]
    raise InputError(f"{path} has no dictionary FAMILIES.")


def _literal(families: ast.Dict, path: Path) -> dict[str, str]:
    try:
        return ast.literal_eval(families)
    except ValueError:
        raise InputError(f"{path}:{families.lineno}: FAMILIES may hold nothing but text.") from None


@dataclass(frozen=True)
class _Module:
    """What one file says: the modules that it needs, names that may be modules, and its digest if it does anything."""

    needed: frozenset[str]
    possible: frozenset[str]
    digest: str | None


def _reached(roots: Iterable[str], stop: Stop, source: Path) -> dict[str, _Module]:
    package = _package(source)
    files = package.files
    stopped = stop if callable(stop) else frozenset(stop).__contains__
    waiting = list(roots)
    for root in waiting:
        if root not in files:
            raise InputError(f"{source} has no module {root}.")
    waiting += [package for root in waiting for package in _with_packages(root)[:-1] if not stopped(package)]
    reached: dict[str, _Module] = {}
    while waiting:
        name = waiting.pop()
        if name in reached or name not in files:
            continue
        module = reached[name] = package.module(name)
        for needed in module.needed:
            if needed not in files:
                raise InputError(f"{files[name]} imports {needed}, which has no file.")
        waiting += [imported for imported in module.needed | module.possible if not stopped(imported)]
    return reached


class _Package:
    """The files of the package, listed at one moment; each is read when it is first asked for."""

    def __init__(self, source: Path) -> None:
        self.files = _files(source)
        self._modules: dict[str, _Module] = {}

    def module(self, name: str) -> _Module:
        if name not in self._modules:
            path = self.files[name]
            # By its content and not by its time: a file that is saved twice within one tick of the clock is read twice.
            self._modules[name] = _read(path.read_bytes(), path, name)
        return self._modules[name]


_held: dict[Path, _Package] | None = None


@contextmanager
def as_it_is() -> Iterator[None]:
    """In the block, each file of the package is looked at once: what is edited meanwhile counts the next time."""
    global _held
    before, _held = _held, {}
    try:
        yield
    finally:
        _held = before


def _package(source: Path) -> _Package:
    if _held is None:
        return _Package(source)
    if source not in _held:
        _held[source] = _Package(source)
    return _held[source]


def _files(source: Path) -> dict[str, Path]:
    """The file of every module of the package."""
    top = str(source / PACKAGE)
    files = {}
    for folder, _, names in os.walk(top):
        package = PACKAGE + folder.removeprefix(top).replace(os.sep, ".")
        for name in names:
            if name == "__init__.py":
                files[package] = Path(folder, name)
            elif name.endswith(".py"):
                files[f"{package}.{name[:-3]}"] = Path(folder, name)
    return files


def _with_packages(name: str) -> list[str]:
    """A module of the package after the packages around it: headimpact.a, headimpact.a.b for headimpact.a.b."""
    return list(accumulate(name.split("."), "{}.{}".format))[1:]


@functools.cache
def _read(content: bytes, path: Path, name: str) -> _Module:
    tree = _Tree(name, is_package=path.name == "__init__.py")
    text = tree.block(_parse(content, path).body)
    digest = hashlib.sha256(text.encode()).hexdigest() if text else None
    return _Module(frozenset(tree.needed), frozenset(tree.possible), digest)


def _parse(content: bytes, path: Path) -> ast.Module:
    try:
        return ast.parse(content, str(path))
    except SyntaxError as error:
        place = str(path) if error.lineno is None else f"{path}:{error.lineno}"
        raise InputError(f"{place}: cannot be read as Python: {error.msg}.") from None
    except ValueError as error:  # null bytes, before Python 3.11.4
        raise InputError(f"{path}: cannot be read as Python: {error}.") from None


class _Tree:
    """A syntax tree as text, and what is imported on the way.

    Not ``ast.dump``: that differs between versions of Python, and between trees that do the same.
    """

    def __init__(self, module: str, is_package: bool) -> None:
        self.needed: set[str] = set()
        self.possible: set[str] = set()
        self._package = module if is_package else module.rpartition(".")[0]

    def block(self, statements: Sequence[ast.stmt]) -> str:
        """Statements: what is imported, sorted, and after it what is done. Empty where nothing is."""
        imported: set[str] = set()
        done = []
        for statement in _effective(statements):
            if isinstance(statement, ast.Import):
                imported.update(self._import(alias) for alias in statement.names)
            elif isinstance(statement, ast.ImportFrom):
                imported.update(self._import_from(statement, alias) for alias in statement.names)
            elif isinstance(statement, ast.Raise):
                # Without the cause: it is shown, and nothing more.
                done.append(f"Raise({self._value(statement.exc, True) if statement.exc else ''})")
            else:
                done.append(self._node(statement, False))
        return ",".join(sorted(imported) + done)

    def _import(self, alias: ast.alias) -> str:
        self._need(alias.name)
        return f"import({alias.name},{alias.asname or ''})"

    def _import_from(self, statement: ast.ImportFrom, alias: ast.alias) -> str:
        module = statement.module or ""
        if statement.level:
            parts = self._package.split(".")
            module = ".".join(parts[: len(parts) + 1 - statement.level] + ([module] if module else []))
        self._need(module)
        if module.split(".")[0] == PACKAGE:
            self.possible.add(f"{module}.{alias.name}")
        return f"import({module},{alias.name},{alias.asname or ''})"

    def _need(self, module: str) -> None:
        if module.split(".")[0] == PACKAGE:
            self.needed.update(_with_packages(module))

    def _node(self, node: ast.AST, in_raise: bool) -> str:
        if isinstance(node, ast.Constant):
            return _constant(node.value, in_raise)
        if isinstance(node, ast.Name):
            return node.id
        if in_raise and isinstance(node, ast.JoinedStr):
            return _TEXT
        parts = []
        for field in _fields(type(node)):
            value = getattr(node, field)
            if value is None or value == []:
                continue
            text = self.block(value) if field in _BLOCKS and type(value) is list else self._value(value, in_raise)
            if text:
                parts.append(f"{field}={text}")
        return f"{type(node).__name__}({';'.join(parts)})"

    def _value(self, value: object, in_raise: bool) -> str:
        if isinstance(value, ast.AST):
            return self._node(value, in_raise)
        if type(value) is list:
            return f"[{','.join([self._value(element, in_raise) for element in value])}]"
        if value is None:  # in a list: a keyword without a default, `**` in a dictionary
            return ""
        return value if type(value) is str else repr(value)


def _effective(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Without what does nothing when it runs: docstrings, ``...``, ``pass``, imports for types alone."""
    for statement in statements:
        match statement:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                pass
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                yield from _effective(statement.orelse)
            case _:
                yield statement


@functools.cache
def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    return tuple(field for field in kind._fields if field != "ctx")  # read or written: its place says it already


def _constant(value: object, in_raise: bool) -> str:
    if type(value) is str:
        # ascii and not repr: which characters repr escapes depends on the version of Python.
        return _TEXT if in_raise else ascii(value)
    return repr(value)
