"""The map of the code in the README is true, and the import contract covers every folder."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "orchestrator"


def parts() -> set[str]:
    """Folders and modules at the top of the package."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    return folders | modules


def layers() -> list[set[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (order,) = [c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == ["orchestrator"]]
    return [set(re.split(r"\s*\|\s*", layer)) for layer in order]


def test_the_readme_maps_every_part_in_import_order() -> None:
    readme = (ROOT / "README.md").read_text()
    block = readme.split("## The code", 1)[1].split("```")[1]
    mapped = [re.sub(r"[/.].*", "", line.split()[0]) for line in block.splitlines() if re.match(r"  \S", line)]
    assert set(mapped) == parts()
    rank = {name: i for i, layer in enumerate(layers()) for name in layer}
    ranks = [rank[name] for name in mapped]
    assert ranks == sorted(ranks)


def test_every_file_the_readme_names_is_there() -> None:
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_modules_open_with_a_sentence_and_fit_in_a_head() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if path.name == "__init__.py" and not text.strip():
            continue
        assert text.startswith('"""'), path
        assert len(text.splitlines()) <= 400, path


def test_there_is_no_place_for_leftovers() -> None:
    assert not {path.stem for path in PACKAGE.rglob("*")} & {"utils", "helpers", "common", "misc"}
