"""What the documents say is true: commands parse, search spaces resolve, code imports, tables name everything."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from PIL import Image

from orchestrator.analysis.papers import table as printed_table
from orchestrator.cli import app
from orchestrator.cli.catalogue import KINDS, catalogue
from orchestrator.methods import METHODS
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.yaml_loader import parse_yaml
from orchestrator.storage.store import Store
from orchestrator.sweep.planning import plan
from orchestrator.trial.exporting import FORMATS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


def _tables() -> Any:
    spec = importlib.util.spec_from_file_location("site_tables", DOCS / "site_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = _tables()


@dataclass(frozen=True)
class Block:
    """A code block; ``kind`` is what stands after the fence, nothing for an indented one."""

    page: Path
    kind: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.title or self.text.strip().splitlines()[0]}"


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r'^```(\w*)(?: title="(.+?)")?[^\n]*\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
        yield Block(page, match[1], match[2] or "", match[3])
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for match in re.finditer(r"(?:^    .*\n)+", plain, re.MULTILINE):
        yield Block(page, "", "", textwrap.dedent(match[0]))


BLOCKS = [block for page in PAGES for block in _blocks(page)]
SPACES = [block for block in BLOCKS if block.kind == "yaml"]


def _commands() -> list[tuple[Block, str]]:
    commands = []
    for block in BLOCKS:
        for line in block.text.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\s*(\$ )?(\.venv/bin/)?", "", line)
            if line.startswith("prunesweep "):
                commands.append((block, line))
    return commands


COMMANDS = _commands()


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_parse_and_their_files_are_there(block: Block, line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands, line
    with commands[name].make_context(name, arguments) as context:  # raises what is wrong with an option or argument
        given = context.params
    if name == "list":
        assert given["what"] in KINDS
    elif name == "compare":
        printed_table(given["paper"], given["table"])
    elif name == "export":
        assert given["form"] in FORMATS
    elif name in ("plan", "run"):
        _check_space(block.page, Path(given["space"]), given["overrides"] or [])


def _check_space(page: Path, space: Path, settings: list[str]) -> None:
    if (ROOT / space).is_file():
        pairs = dict(setting.split("=", 1) for setting in settings)
        loaded = SearchSpace.load(ROOT / space, {key: parse_yaml(value, key) for key, value in pairs.items()})
        if "data.path" not in pairs:
            assert plan(loaded).total
        return
    written = [parse_yaml(b.text, str(b)).get("name") for b in SPACES if b.page == page]
    assert space.stem in written, f"{page.name} names {space}, which is no file, and no block of the page has that name"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the modules that the documents write, and images of the shapes that they speak of."""
    for block in BLOCKS:
        if block.kind == "python" and block.title:
            (tmp_path / block.title).write_text(block.text)
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            Image.new("RGB", (64, 64)).save(folder / "0.png")
        (tmp_path / "photos_parquet").mkdir(exist_ok=True)
        (tmp_path / "photos_parquet" / f"{split}.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", SPACES, ids=str)
def test_search_spaces_resolve(block: Block, workplace: Path) -> None:
    """Parts of a search space are taken to stand in the simplest one."""
    raw = yaml.safe_load(block.text)
    if not isinstance(raw, dict) or not set(raw) <= set(SearchSpace.model_fields):
        pytest.skip("no search space")
    simplest = {"model": "lenet5", "data": {"name": "digits", "size": 16}, "target": {"sparsity": 0.5}}
    if "arms" not in raw:
        simplest["method"] = "l1_norm"
    two_axes = {"target.sparsity": [0.5, 0.7], "seed": [0, 1], "baseline.lr": [0.1, 0.01]}
    whole = {"name": "part", "axes": two_axes, **parse_yaml(block.text, str(block))}
    whole["base"] = simplest | whole.get("base", {})
    planned = plan(SearchSpace.parse(whole))
    assert planned.total


def test_the_tutorial_counts_right() -> None:
    (first,) = (block for block in SPACES if block.page.name == "tutorial.md" and "name: first" in block.text)
    planned = plan(SearchSpace.parse(parse_yaml(first.text, "first.yaml")))
    assert len(planned.trials) == 18
    assert planned.count("baseline") == 2


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "python"], ids=str)
def test_python_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


def test_the_method_of_the_guide_keeps_the_promises(workplace: Path) -> None:
    from orchestrator.plugins import Registry
    from orchestrator.surgery.selection import ChannelSelection
    from orchestrator.testing.methods import SPARSITY, decide

    registry = Registry("method", "nowhere", {"l2_norm": "l2_norm:L2Norm"})
    assert registry.parameters("l2_norm").model_fields["power"].default == 2.0
    decided = decide(registry, "l2_norm", "residual", "channels")
    assert isinstance(decided.selection, ChannelSelection)
    assert decided.selection.achieved == pytest.approx(SPARSITY, abs=0.05)


def test_the_model_of_the_guide_is_pruned(workplace: Path) -> None:
    from orchestrator.storage.workspace import Workspace
    from orchestrator.sweep.space.resolve import resolve
    from orchestrator.trial.run import run_trial

    still = {"baseline": {"epochs": 0}, "retrain": {"epochs": 0}, "data": "digits", "method": "l1_norm"}
    model = {"name": "my_nets:tiny", "width": 24}
    result = run_trial(
        resolve({**still, "model": model, "target": {"sparsity": 0.5}}), Workspace(Store(workplace), "s")
    )
    assert result.status == "done", result.error
    assert result.achieved == pytest.approx(0.5, abs=0.02)


def test_every_key_is_in_its_table_with_a_meaning() -> None:
    from orchestrator.spec.axes import Range
    from orchestrator.spec.search_space import Resources, Search
    from orchestrator.spec.trial import Baseline, Retrain, Target

    page = TABLES.filled((DOCS / "search-space.md").read_text(encoding="utf-8"))
    models = {SearchSpace: "", Range: "", Search: "search.", Resources: "resources.", Baseline: "baseline."}
    for model, path in (models | {Target: "target.", Retrain: "retrain."}).items():
        rows = {row[0]: row for row in TABLES.keys(model, path)}
        assert set(rows) >= {
            path + name for name in model.model_fields if model not in (Retrain, Search) or name != "params"
        }
        for key, (_, values, _, meaning) in rows.items():
            assert f"| `{key}` |" in page
            assert values, key
            assert meaning, f"{key} has no docstring to explain it"


def test_every_name_is_in_its_table() -> None:
    pages = [TABLES.filled((DOCS / name).read_text(encoding="utf-8")) for name in ("methods.md", "names.md")]
    for kind in KINDS:
        for entry in catalogue(kind):
            assert f"| `{entry['name']}` |" in "".join(pages), (kind, entry["name"])
            for parameter in entry.get("parameters") or {}:
                assert f"`{parameter}`: " in "".join(pages), (kind, entry["name"], parameter)
    assert all(f"| `{name}` |" in pages[0] for name in METHODS.names())


def test_an_unknown_table_is_refused_and_all_are_used() -> None:
    with pytest.raises(TABLES.NoSuchTable, match="no table 'metods'"):
        TABLES.filled("<!-- table: metods -->")
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"^<!-- table: (.+) -->$", text, re.MULTILINE)) == set(TABLES.TABLES)


def test_tables_have_as_many_cells_in_every_row() -> None:
    for name, made in TABLES.TABLES.items():
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in made().splitlines() if line.startswith("|")}
        assert len(widths) <= 1, name


def test_the_glossary_has_the_words_that_the_code_uses() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    words = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")} - {"word", "---"}
    assert words >= {"search space", "sweep", "arm", "point", "trial", "stage", "method", "stopper", "schedule", "MACs"}


def test_links_lead_somewhere() -> None:
    for page in DOCS.glob("**/*.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TABLES.filled(page.read_text(encoding="utf-8"))):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the optional packages of `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "methods.html").read_text(encoding="utf-8")
    assert "network_slimming" in page
    fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^\" >]+)", page)
    assert not fetched
