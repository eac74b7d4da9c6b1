"""Who imports whom, beyond the layers of pyproject's contract: no cycle, and packages that cost nothing to import."""

from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from grimp import ImportGraph

import headimpact

SOURCE = Path(headimpact.__file__).parent


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    """All imports, those within functions and those for type checkers included."""
    return grimp.build_graph("headimpact", cache_dir=None)


def cycles(graph: ImportGraph) -> Iterator[str]:
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            if back := graph.find_shortest_chain(importer=imported, imported=importer):
                yield " -> ".join((importer, *back))


def test_no_module_imports_itself_by_way_of_others(graph: ImportGraph):
    assert list(cycles(graph)) == []


def test_a_cycle_is_named():
    graph = ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        graph.add_import(importer=importer, imported=imported)
    assert list(cycles(graph)) == ["a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"]


def test_a_package_imports_nothing_by_itself():
    """Python runs a package's file before any module in it: what it imports, all its modules would depend on.

    The registry of families says which family is which, and refuses others; what is for type checkers is never run.
    """
    graph = grimp.build_graph("headimpact", cache_dir=None, exclude_type_checking_imports=True)
    packages = [
        ".".join(("headimpact", *path.parent.relative_to(SOURCE).parts)) for path in SOURCE.rglob("__init__.py")
    ]
    imported = {package: sorted(graph.find_modules_directly_imported_by(package)) for package in sorted(packages)}
    assert imported.pop("headimpact.vlm.families") == ["headimpact.errors", "headimpact.vlm.unsupported"]
    assert {package: modules for package, modules in imported.items() if modules} == {}
