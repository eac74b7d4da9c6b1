"""What code does, and nothing else of it, decides its fingerprint."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

from headimpact.errors import InputError
from headimpact.lifecycle.fingerprint import FAMILIES, closure, family_modules, fingerprint

ROOT = "headimpact.steps.score"
MODULE = '''"""Scores."""

import math
from headimpact.math import mean, total
from headimpact import text

LIMIT = 0.5


@staticmethod
def score(values, scale=2, *, digits=None):
    """The score of values."""
    if not values:
        raise ValueError(f"No values, but {scale}." + "!") from None
    return text.join(math.sqrt(mean(values) + scale), "and", f"{total(values)}")


class Reader:
    """Reads."""

    path: str
    """Where from."""

    def read(self):
        """Not yet."""
'''
FILES = {
    "__init__.py": '"""The package."""\n__version__ = "1"\n',
    "steps/__init__.py": '"""Steps."""\n',
    "steps/score.py": MODULE,
    "math/__init__.py": "from headimpact.math.sums import total\n\n\ndef mean(values):\n    return total(values)\n",
    "math/sums.py": "def total(values):\n    return sum(values)\n",
    "text.py": "def join(*parts):\n    from headimpact.glue import GLUE\n\n    return GLUE.join(map(str, parts))\n",
    "glue.py": 'GLUE = ", "\n',
    "other.py": "VALUE = 1\n",
}


def write(source: Path, files: Mapping[str, str]) -> Path:
    """A package ``headimpact`` of these files below ``source``, over what is there."""
    for name, content in files.items():
        path = source / "headimpact" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return source


def changed(old: str, new: str) -> str:
    """MODULE with one place changed."""
    assert MODULE.count(old) == 1
    return MODULE.replace(old, new)


def of_module(source: Path, content: str) -> str:
    return fingerprint([ROOT], (), write(source, {**FILES, "steps/score.py": content}))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(changed('"""Scores."""', '"""Scores of heads,\n\nin words."""'), id="docstring of a module"),
        pytest.param(changed('    """The score of values."""\n', ""), id="no docstring of a function"),
        pytest.param(changed('"""Reads."""', '"""It reads."""'), id="docstring of a class"),
        pytest.param(changed('    """Where from."""\n', ""), id="no docstring of an attribute"),
        pytest.param(changed('        """Not yet."""', "        pass"), id="pass in place of a docstring"),
        pytest.param(changed('        """Not yet."""', "        ..."), id="dots in place of a docstring"),
        pytest.param(changed("LIMIT = 0.5", "# A half.\nLIMIT = 0.5  # of one"), id="comments"),
        pytest.param(changed("LIMIT = 0.5", "\n\nLIMIT = (\n    0.50\n)"), id="layout"),
        pytest.param(changed('"and"', "u'a' 'nd'"), id="quotes"),
        pytest.param(
            changed(
                "import math\nfrom headimpact.math import mean, total\nfrom headimpact import text\n",
                "from headimpact import text\nfrom headimpact.math import total\nimport math\n"
                "from headimpact.math import mean\n",
            ),
            id="order and grouping of imports",
        ),
        pytest.param(changed('f"No values, but {scale}."', 'f"{values} has {scale:.2f}!"'), id="reworded f-string"),
        pytest.param(changed('f"No values, but {scale}."', '"Nothing."'), id="text in place of an f-string"),
        pytest.param(changed('"!"', '"?"'), id="reworded error"),
        pytest.param(changed(" from None", ""), id="cause of an error"),
        pytest.param(
            changed("import math\n", "import math\nif typing.TYPE_CHECKING:\n    from headimpact.other import VALUE\n"),
            id="import for types",
        ),
    ],
)
def test_what_does_nothing_to_a_result_does_not_count(tmp_path: Path, content: str) -> None:
    assert of_module(tmp_path / "after", content) == of_module(tmp_path / "before", MODULE)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(changed("LIMIT = 0.5", "LIMIT = 0.6"), id="constant"),
        pytest.param(changed("LIMIT = 0.5", "LIMIT = -0.5"), id="sign"),
        pytest.param(changed("LIMIT = 0.5", 'LIMIT = "0.5"'), id="type of a constant"),
        pytest.param(changed("LIMIT = 0.5", "LIMIT = None"), id="None"),
        pytest.param(changed("LIMIT = 0.5", "LIMIT: float = 0.5"), id="annotation"),
        pytest.param(changed("mean(values) + scale", "mean(values) - scale"), id="operator"),
        pytest.param(changed("scale=2", "scale=3"), id="default"),
        pytest.param(changed("scale=2, *, digits=None", "scale=2, digits=None"), id="kind of an argument"),
        pytest.param(changed("digits=None", "digits"), id="no default"),
        pytest.param(changed("def score", "def rate"), id="name of a function"),
        pytest.param(changed("class Reader", "class Reader(list)"), id="base of a class"),
        pytest.param(changed("@staticmethod", "@classmethod"), id="decorator"),
        pytest.param(changed('"and"', '"or"'), id="string"),
        pytest.param(changed('f"{total(values)}"', 'f"{total(values):.2f}"'), id="f-string"),
        pytest.param(changed('"""Not yet."""', 'return """Not yet."""'), id="docstring that is returned"),
        pytest.param(MODULE + "\n\ndef more():\n    pass\n", id="added function"),
        pytest.param(changed("not values", "values"), id="condition"),
        pytest.param(changed("raise ValueError", "raise KeyError"), id="kind of an error"),
        pytest.param(changed("raise ValueError(", "print(").replace(" from None", ""), id="error not raised"),
        pytest.param(changed('+ "!"', "+ scale"), id="what an error is made of"),
        pytest.param(changed("from headimpact.math import mean, total", "import mean, total"), id="origin of a name"),
        pytest.param(changed("import mean, total", "import total as mean, total"), id="import for another"),
        pytest.param(changed("from headimpact import text", "from headimpact import text as t"), id="bound name"),
        pytest.param(changed("import math\n", "import math as m\n"), id="bound name of a module"),
        pytest.param(
            changed("import math\n", "import math\n\nif not TYPE_CHECKING:\n    import re\n"), id="added import"
        ),
    ],
)
def test_what_may_do_something_to_a_result_counts(tmp_path: Path, content: str) -> None:
    assert of_module(tmp_path / "after", content) != of_module(tmp_path / "before", MODULE)


def test_the_same_code_has_the_same_fingerprint_everywhere(tmp_path: Path) -> None:
    """In every process and version of Python; another value makes every kept result stale."""
    assert of_module(tmp_path, MODULE) == "72e7b69084e54088"


def test_an_import_that_moves_between_two_functions_counts(tmp_path: Path) -> None:
    """A name may mean different things in two functions."""
    here = "def one():\n    from headimpact.glue import GLUE\n    return GLUE\n\n\ndef two():\n    return GLUE\n"
    there = "def one():\n    return GLUE\n\n\ndef two():\n    from headimpact.glue import GLUE\n    return GLUE\n"
    assert of_module(tmp_path, here) != of_module(tmp_path, there)


def test_the_closure_follows_what_is_imported_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    assert closure([ROOT], (), tmp_path) == [
        "headimpact.glue",
        "headimpact.math",
        "headimpact.math.sums",
        "headimpact.steps",
        "headimpact.steps.score",
        "headimpact.text",
    ]
    assert closure(["headimpact.other", "headimpact.glue"], (), tmp_path) == ["headimpact.glue", "headimpact.other"]


@pytest.mark.parametrize(
    ("statement", "reached"),
    [
        ("import headimpact.math.sums", {"math", "math.sums"}),
        ("import headimpact.math.sums as s", {"math", "math.sums"}),
        ("from headimpact.math.sums import total", {"math", "math.sums"}),
        ("from headimpact.glue import *", {"glue"}),
        ("from headimpact import glue as text", {"glue"}),
        ("from .. import glue", {"glue"}),
        ("from ..glue import GLUE", {"glue"}),
        ("from . import examine", {"steps.examine"}),
        ("from .examine import run", {"steps.examine"}),
        ("import headimpact", set()),
        ("from headimpact import __version__", set()),
        ("import headimpact_tools.glue, not_there", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from headimpact import glue", set()),
        ("if TYPE_CHECKING:\n    import re\nelse:\n    from headimpact import glue", {"glue"}),
        ("try:\n    pass\nfinally:\n    with a:\n        import headimpact.glue", {"glue"}),
        ("match a:\n    case 1:\n        import headimpact.glue", {"glue"}),
        ("class A:\n    def f(self):\n        import headimpact.glue", {"glue"}),
    ],
)
def test_every_form_of_import(tmp_path: Path, statement: str, reached: set[str]) -> None:
    write(tmp_path, {**FILES, "steps/score.py": statement, "steps/examine.py": ""})
    names = {name.removeprefix("headimpact.") for name in closure([ROOT], (), tmp_path)}
    assert names == reached | {"steps", "steps.score"}


def test_an_import_relative_to_the_package_itself(tmp_path: Path) -> None:
    write(tmp_path, {"math/__init__.py": "from .sums import total\n", "math/sums.py": "", "sums.py": ""})
    assert closure(["headimpact.math"], (), tmp_path) == ["headimpact.math", "headimpact.math.sums"]


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("math/__init__.py", True),
        ("math/sums.py", True),
        ("glue.py", True),  # by an import within a function
        ("steps/__init__.py", True),
        ("__init__.py", False),
        ("other.py", False),
        ("new.py", False),
        ("steps/new.py", False),
    ],
)
def test_only_modules_that_are_reached_count(tmp_path: Path, file: str, counts: bool) -> None:
    before = fingerprint([ROOT], (), write(tmp_path, FILES))
    write(tmp_path, {file: FILES.get(file, "") + "CHANGED = True\n"})
    assert (fingerprint([ROOT], (), tmp_path) != before) == counts


def test_a_package_that_says_something_only_in_words_contributes_nothing(tmp_path: Path) -> None:
    before = fingerprint([ROOT], (), write(tmp_path, FILES))
    assert fingerprint([ROOT], {"headimpact.steps"}, tmp_path) == before


def test_where_code_stands_counts(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "copy.py": FILES["other.py"]})
    assert fingerprint(["headimpact.copy"], (), tmp_path) != fingerprint(["headimpact.other"], (), tmp_path)


@pytest.mark.parametrize(
    "stop",
    [{"headimpact.text", "headimpact.math"}, lambda name: name in ("headimpact.text", "headimpact.math")],
    ids=["names", "function"],
)
def test_stopped_modules_neither_count_nor_are_followed(tmp_path: Path, stop) -> None:
    before = fingerprint([ROOT], stop, write(tmp_path, FILES))
    assert closure([ROOT], stop, tmp_path) == ["headimpact.steps", "headimpact.steps.score"]
    write(tmp_path, {name: "CHANGED = True\n" for name in ("text.py", "math/__init__.py", "math/sums.py", "glue.py")})
    assert fingerprint([ROOT], stop, tmp_path) == before


def test_a_root_counts_also_where_it_is_stopped(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    assert closure(["headimpact.text"], lambda name: True, tmp_path) == ["headimpact.text"]


FAMILY_FILES = {
    "vlm/__init__.py": "",
    "vlm/base.py": "class Vlm:\n    pass\n",
    "vlm/families/__init__.py": 'FAMILIES = {"a": "file_a:A", "b": "file_b:B"}\n',
    "vlm/families/file_a.py": "from headimpact.vlm.base import Vlm\n\n\nclass A(Vlm):\n    tokens = 1\n",
    "vlm/families/file_b.py": "from headimpact.vlm.base import Vlm\n\n\nclass B(Vlm):\n    tokens = 1\n",
}


def of_families(source: Path, *model_types: str) -> list[str]:
    return [fingerprint(family_modules(name, source), {FAMILIES}, source) for name in model_types]


def test_a_family_is_known_by_its_own_file(tmp_path: Path) -> None:
    write(tmp_path, FAMILY_FILES)
    assert family_modules("b", tmp_path) == ["headimpact.vlm.families.file_b"]
    assert closure(family_modules("b", tmp_path), {FAMILIES}, tmp_path) == [
        "headimpact.vlm",
        "headimpact.vlm.base",
        "headimpact.vlm.families.file_b",
    ]


def test_a_new_family_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    before = of_families(write(tmp_path, FAMILY_FILES), "a", "b")
    line = 'FAMILIES: dict[str, str] = {"a": "file_a:A", "b": "file_b:B", "c": "file_c:C"}\n'
    write(tmp_path, {"vlm/families/__init__.py": line, "vlm/families/file_c.py": "class C:\n    pass\n"})
    assert of_families(tmp_path, "a", "b") == before
    assert len(set(of_families(tmp_path, "a", "b", "c"))) == 3


def test_a_changed_line_of_a_family_is_its_own(tmp_path: Path) -> None:
    before = of_families(write(tmp_path, FAMILY_FILES), "a", "b")
    write(tmp_path, {"vlm/families/file_b.py": FAMILY_FILES["vlm/families/file_b.py"].replace("1", "2")})
    after = of_families(tmp_path, "a", "b")
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_base_that_all_families_share_is_of_all(tmp_path: Path) -> None:
    before = of_families(write(tmp_path, FAMILY_FILES), "a", "b")
    write(tmp_path, {"vlm/base.py": "class Vlm(list):\n    pass\n"})
    assert not set(of_families(tmp_path, "a", "b")) & set(before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('FAMILIES = dict(a="file_a:A")\n', "has no dictionary FAMILIES"),
        ('\nFAMILIES = {"a": NAME}\n', r"__init__\.py:2: FAMILIES may hold nothing but text"),
    ],
)
def test_families_that_are_not_written_out_are_told(tmp_path: Path, content: str, message: str) -> None:
    write(tmp_path, {**FAMILY_FILES, "vlm/families/__init__.py": content})
    with pytest.raises(InputError, match=message):
        family_modules("a", tmp_path)


def test_a_family_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="c"):
        family_modules("c", write(tmp_path, FAMILY_FILES))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = 1\nb = = 2\n", r"text\.py:2: cannot be read as Python: invalid syntax\."),
        (b"a = 1\nb = '\0'\n", r"text\.py.*: cannot be read as Python: .*null bytes"),
        (b"a = '\xff'\n", r"text\.py.*: cannot be read as Python: .*utf-8"),
    ],
)
def test_a_file_that_is_not_python_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    write(tmp_path, FILES)
    (tmp_path / "headimpact" / "text.py").write_bytes(content)
    with pytest.raises(InputError, match=message):
        fingerprint([ROOT], (), tmp_path)
    fingerprint([ROOT], {"headimpact.text"}, tmp_path)


def test_modules_of_the_package_that_are_not_there_are_told(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "other.py": "from headimpact.math.nothing import x\n"})
    with pytest.raises(InputError, match=r"other\.py imports headimpact\.math\.nothing, which has no file"):
        closure(["headimpact.other"], (), tmp_path)
    with pytest.raises(InputError, match=r"has no module headimpact\.nothing"):
        closure(["headimpact.nothing"], (), tmp_path)


def test_scoring_depends_on_nothing_that_runs_or_shows_it(project_root: Path) -> None:
    modules = closure(["headimpact.impact.scoring"], {FAMILIES}, project_root / "src")
    assert {"headimpact.impact.scoring", "headimpact.impact.head_impact", "headimpact.vlm.base"} <= set(modules)
    assert {name.split(".")[1] for name in modules}.isdisjoint({"lifecycle", "report", "tournament", "adapters"})
    assert not [name for name in modules if name.startswith(FAMILIES)]


def test_every_family_of_the_package_has_a_fingerprint_of_its_own(project_root: Path) -> None:
    assert len(set(of_families(project_root / "src", "paligemma", "qwen2_vl", "idefics3"))) == 3


def test_nothing_in_the_package_imports_through_the_package_itself(project_root: Path) -> None:
    """Such a name (headimpact.score, say) is found only when it is asked for, and no closure would follow it."""
    package = project_root / "src" / "headimpact"
    modules = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/*.py")}
    for path in set(package.rglob("*.py")) - {package / "__init__.py"}:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.module == "headimpact":
                assert {alias.name for alias in node.names} <= modules | {"__version__"}, path
