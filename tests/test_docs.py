"""README.md and docs/: figures are those of the files, links lead somewhere, and nothing is named that is not there."""

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from headimpact.lifecycle import code, layout, pages, written
from headimpact.lifecycle.documentation import documentation
from headimpact.lifecycle.fingerprint import Stop, closure
from headimpact.lifecycle.registry import COMMANDS, STEPS, locate
from headimpact.selection.grammar import FULL
from headimpact.selection.rules import CHAMPION, RULES
from headimpact.tournament.standings import DRAWS
from headimpact.vlm.base import Vlm

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "data/README.md", *(ROOT / "docs").glob("*.md")])
README_LINES = 150
BY_HAND = {"summary"}
"""Blocks that no file is there for: what a command printed."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(params=PAGES, ids=name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def code_of(page: Path) -> Iterator[str]:
    """What stands in a page as code: the lines of its blocks, and what is in backticks."""
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()
        else:
            yield from re.findall(r"`([^`]+)`", line)


# ---- figures


def test_pages_hold_the_figures_of_the_files():
    """After ``headimpact write``."""
    filled = pages.pages(ROOT)
    assert {path.as_posix() for path in filled} >= {"README.md", "docs/architecture.md", "docs/results.md"}
    for path, text in filled.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, path


def test_every_block_is_written_from_files_or_known_to_be_by_hand():
    names = [found for page in PAGES for found in re.findall(r"<!-- (\w+):(start|end) -->", page.read_text())]
    starts, ends = ([block for block, kind in names if kind == wanted] for wanted in ("start", "end"))
    assert starts == ends
    assert set(starts) == {*pages.BLOCKS, *BY_HAND}
    for page in PAGES:
        assert "Not there yet" not in page.read_text(), page


def test_the_readme_has_the_example_of_the_page_on_python():
    blocks = [
        re.findall(r"<!-- python:start -->\n(.*?)<!-- python:end -->", path.read_text(), re.DOTALL)
        for path in (ROOT / "README.md", ROOT / "docs/python.md")
    ]
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) == 1
    assert blocks[0][0].startswith("```python\nimport headimpact")


def test_where_files_are_missing_the_page_says_what_makes_them(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    text = (
        "# Title\n\n<!-- table4:start -->\nold\n<!-- table4:end -->\n\n"
        "<!-- summary:start -->\nkept\n<!-- summary:end -->\n"
    )
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "docs/answers.md").write_text("<!-- answers:start -->\nold\n<!-- answers:end -->\n")
    (tmp_path / "docs/plain.md").write_text("# Nothing\n")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/report.md").write_text("# Report\n\n| model | setup |\n| --- | --- |\n| a | b |\n")
    filled = pages.pages(tmp_path)
    assert filled == {
        Path("README.md"): text.replace("old", "Not there yet: `headimpact report` makes it."),
        Path("docs/answers.md"): "<!-- answers:start -->\nNot there yet: `headimpact report` makes it.\n"
        "<!-- answers:end -->\n",
    }


def test_tables_of_the_report_are_joined_by_model_and_setup(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- answers:start -->\n<!-- answers:end -->\n")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/report.md").write_text(
        "## Orders\n\n"
        "| model | setup | accuracy, 24 orders | accuracy, 1 order | AnsProb | choice depends on the order |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| tiny | original | 0.8 | 0.7 | 0.6 | 0.5 |\n"
        "| tiny | top-4 | 0.4<br>-0.4 | 0.3 | 0.2 | 0.1 |\n\n"
        "## Words\n\n"
        "| model | setup | cut-out, F1 | caption, F1, nearest phrase |\n"
        "| --- | --- | --- | --- |\n"
        "| tiny | top-4 | 0.9 | 0.95 |\n"
    )
    assert pages.pages(tmp_path)[Path("README.md")].splitlines()[1:-1] == [
        "| model | setup | accuracy, 24 orders | accuracy, 1 order | choice depends on the order "
        "| caption, F1, nearest phrase | cut-out, F1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| tiny | original | 0.8 | 0.7 | 0.5 |  |  |",
        "| tiny | top-4 | 0.4<br>-0.4 | 0.3 | 0.1 | 0.95 | 0.9 |",
    ]


def test_the_advice_on_setups_follows_from_the_tournament():
    """README.md and docs/results.md say in words what the tables beside them show."""
    comparisons = pd.read_csv(ROOT / layout.tournament_table("comparisons"))
    winners = {rival: comparisons[comparisons["rival"] == rival]["winner"] for rival in (FULL, DRAWS)}
    assert (winners[FULL] == FULL).any()
    for of_rival in winners.values():
        assert not (of_rival == CHAMPION).any()
    changes = pd.read_csv(ROOT / layout.tournament_table("changes"))
    forgets = changes.query("model == 'tiny-paligemma2' and rule == @CHAMPION and k == 4 and metric == 'accuracy'")
    assert forgets["high"].item() < -0.1


# ---- what is named


def test_the_readme_is_a_screen_and_a_bit():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def test_links_lead_to_files_and_headings(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_linked_from_the_readme():
    links = re.findall(r"\]\((docs/[^)#]+\.md)", (ROOT / "README.md").read_text())
    assert set(links) == {name(path) for path in PAGES if path.parent == ROOT / "docs"}


def test_commands_exist(page: Path):
    keys = {re.sub(r"<\w+>", "*", parameter.key) for parameter in documentation()}
    options = {
        "model",
        "setup",
        "debug",
        "report",
        "help",
        "images",
        "image",
        "phrase",
        "question",
        "merged",
        "check",
        "boxes",
    }
    rules = re.findall(r"^([a-z ]+):(?! MARKED)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = " ".join(rules).split()
    entry_points = yaml.safe_load(written.entry_points())["entry_points"]
    for text in code_of(page):
        command = re.sub(r"\s#.*", "", text)
        for step in re.findall(r"(?<![\w-])headimpact ([a-z][\w-]*)", command):
            assert step in {*STEPS, *COMMANDS}, text
        for step in re.findall(r"mlflow run \. -e (\S+)", command):
            assert step in {*entry_points, "<step>"}, text
        for target in re.findall(r"dvc (?:repro|freeze|status)(?: -\w)? ([a-z][\w/.:-]*)", command):
            assert target.removeprefix("jobs/dvc.yaml:").split("-")[0] in STEPS, text
        for target in re.findall(r"(?<![\w-])make ([a-z]+)", command):
            assert target in targets, text
        if command.startswith(("headimpact", "mlflow run", "for setup")):
            for option in re.findall(r"(?:--|-P '?)([a-z][\w.]*)(?=[ =]|$)", command):
                assert option in options | keys or option == "env", text


def test_nobody_is_told_to_run_the_module(page: Path):
    assert "python -m headimpact" not in page.read_text()


def produced(path: str) -> bool:
    """Whether a step writes a path, or what is in it, or what it is in; of any model and setup."""
    places = [locate(place, "*", "top-999") for step in STEPS.values() for place in step.writes]
    patterns = [
        place.as_posix().replace("top-999", "*")
        for place in (
            *places,
            layout.download("*"),
            layout.JOBS,
            layout.FROZEN,
            layout.REHEARSALS,
            layout.LOOKS,
            layout.CHECKPOINTS,
            layout.DELIVERED,
        )
    ]
    parts = Path(path).parts
    return any(
        all(fnmatch(part, wanted) for part, wanted in zip(parts, Path(pattern).parts, strict=False))
        for pattern in patterns
    )


def test_paths_exist_or_are_written_by_a_step(page: Path):
    folders = "src|docs|tests|benchmarks|reports|outputs|models|data|jobs"
    for text in code_of(page):
        for path in re.findall(rf"(?<![\w/.:-])((?:{folders})/[\w/.<>-]*[\w>/])(?![\w{{*])", text):
            assert produced(path) or (ROOT / path).exists(), path


# ---- what pages say of the code


def test_the_table_of_setups_has_every_rule():
    table = (ROOT / "docs/method.md").read_text()
    for rule in RULES.values():
        for form in rule.forms:
            assert f"`{form}`" in table, form


def test_the_page_on_families_has_every_member_of_a_family():
    page = (ROOT / "docs/adding-a-family.md").read_text()
    named = {
        member for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for member in re.findall(r"`(\w+)`", row)
    }
    members = {member for member in vars(Vlm).get("__annotations__", {}) if not member.startswith("_")}
    assert Vlm.__abstractmethods__ | members <= named
    inherited = {member for part in Vlm.__mro__ for member in vars(part).get("__annotations__", {})}
    assert named <= inherited | set(dir(Vlm))


@pytest.mark.parametrize(("page", "module"), [("rule", "selection/rules.py"), ("metric", "evaluation/metrics.py")])
def test_entries_are_shown_as_they_stand_in_the_code(page: str, module: str):
    source = (ROOT / "src/headimpact" / module).read_text()
    shown = [text for text in code_of(ROOT / f"docs/adding-a-{page}.md") if text.endswith("),") or "),  " in text]
    assert shown
    for text in shown:
        assert re.sub(r"\s+#.*", "", text) in source, text


def touched() -> list[tuple[str, set[str]]]:
    """The rows of "What a change touches" that name a file: the file, and the steps that are stale after it."""
    section = (ROOT / "docs/architecture.md").read_text().split("## What a change touches")[1]
    rows = re.findall(r"^\|.*`src/headimpact/([\w/]+\.py)` \| (.*) \|$", section, re.MULTILINE)
    return [(module, set(re.findall(r"`(\w+)`", stale))) for module, stale in rows]


def test_what_a_change_touches(monkeypatch: pytest.MonkeyPatch):
    covered: dict[str, list[str]] = {}
    for step, entry in STEPS.items():

        def recorded(roots: Sequence[str], stop: Stop, source: Path, step: str = step) -> str:
            covered[step] = closure(roots, stop, source)
            return ""

        monkeypatch.setattr(code, "fingerprint", recorded)
        code.step_fingerprint(entry)
    assert len(touched()) > 3
    for file, stale in touched():
        module = f"headimpact.{file.removesuffix('.py').replace('/', '.')}"
        assert {step for step, modules in covered.items() if module in modules} == stale, file
