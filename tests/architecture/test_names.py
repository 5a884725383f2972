"""Files fit in a head, and no name of the package is one of those that the field's words replaced."""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "orchestrator"
MEDIAN_LINES, MOST_LINES = 120, 320
RIDDLES = {"found", "told", "one"}
"""Variables that do not say what they hold; allowed in fewer places than `MOST_RIDDLES` in all."""
MOST_RIDDLES = 20

MODULES = {
    "feeding": "dispatcher, tune_searcher",
    "rehearsing": "probes",
    "preflight": "node_checks",
    "kinds": "training_kinds",
    "judging": "observation",
    "packing": "allocation",
    "pending": "drawn",
    "sequences": "quasirandom",
    "stamps": "record_fingerprints",
    "record_stamps": "record_fingerprints",
    "stored": "object_info",
    "mirror": "bucket_sync",
    "run_notes": "descriptions",
    "run_values": "payload",
    "runs_view": "ui",
    "resuming": "state",
    "effective": "reparametrization",
    "switches": "learned_masks",
    "readers": "consumers",
    "extra_losses": "auxiliary_losses",
    "shared": "stages",
    "fitting": "shape_check",
    "probing": "gpu_probe",
    "analysing": "diagnostics",
    "contests": "rankings",
    "printed": "published",
    "evidence": "data",
    "answer": "conclusions",
    "honesty": "checklist",
    "wording": "formatting",
    "spelling": "table_formats",
    "traces": "to_plotly",
    "beside": "sweep_comparison",
}
CLASSES = {
    "Feed": "Dispatcher, TuneSearcher",
    "LastFirst": "LifoScheduler",
    "JoinedArm": "ExpandedArm",
    "Judgement": "Observation",
    "Known": "EvaluatedTrial",
    "Referee": "StoppingPolicy",
    "Proposer": "AskTell",
    "Packing": "Allocation",
    "Stored": "ObjectInfo",
    "Occupied": "LeaseHeld",
    "Companion": "TrainingHook",
    "EffectiveWeight": "Reparametrization",
    "Evidence": "data",
    "Outcome": "SweepOutcome",
    "Readers": "Consumers",
    "Switches": "LearnedMasks",
}
FUNCTIONS = {
    "judge": "observe",
    "recall": "replay",
    "places": "n_survivors",
    "propose": "ask",
    "expect": "register_running",
    "located": "match_record",
    "holds": "contains",
    "every": "values",
    "ends": "endpoints",
    "packed": "allocate",
    "worth": "saturation",
    "keep_fall_back": "save_fall_back",
    "posted": "read_marker",
    "post": "write_marker",
    "publish": "upload",
    "alone": "lock",
    "driving": "hold_driver_lock",
    "without_driver": "exclude_driver",
    "stamps_of": "record_fingerprints",
    "stamp_of": "record_fingerprint",
    "trainings": "training_kinds",
    "possible": "representative_trials",
    "joined_arms": "expand_arms",
}
ORDINARY = {
    ("sweep/driver", "keep"): "save",
    ("sweep/driver", "kept"): "load",
    ("sweep/search", "flat"): "joint, unconditional",
    ("sweep/search", "withdraw"): "cancel",
    ("records", "withdraw"): "delete_marker",
    ("sweep", "retreat"): "a backoff marker",
    ("sweep", "back"): "requeued",
    ("sweep", "crowded"): "out_of_memory",
    ("sweep", "full"): "store_unavailable",
    ("training", "Progress"): "TrainingState",
}
"""Ordinary words, by the folder in which they were a name of that dialect (`Method.keep` is a hook)."""


@cache
def trees() -> dict[Path, ast.Module]:
    return {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def public(tree: ast.Module, kinds: tuple[type[ast.AST], ...]) -> Iterator[tuple[str, int]]:
    """Names and lines of public definitions of these kinds, methods among them."""
    for node in ast.walk(tree):
        if isinstance(node, kinds) and not node.name.startswith("_"):  # type: ignore[attr-defined]
            yield node.name, node.lineno  # type: ignore[attr-defined]


def attributes(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names and lines of the attributes that classes declare, and that methods set on `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield line.target.id, line.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def bound(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names and lines of every variable and parameter that is bound."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def replaced(words: dict[str, str], names: Iterator[tuple[str, int]], path: Path) -> list[str]:
    return [f"{path}:{line}: {name} -> {words[name]}" for name, line in names if name in words]


def test_files_are_short() -> None:
    lengths = {path: len((PACKAGE / path).read_text().splitlines()) for path in trees()}
    long = [f"{path}: {lines} lines" for path, lines in lengths.items() if lines > MOST_LINES]
    assert not long, "\n".join(long)
    # A folder's own file often holds its sentence alone, and would hide how long the others are.
    assert statistics.median(lines for path, lines in lengths.items() if path.name != "__init__.py") < MEDIAN_LINES


def test_modules_have_the_words_of_the_field() -> None:
    parts = {part for path in trees() for part in path.with_suffix("").parts}
    old = [f"{name} -> {MODULES[name]}" for name in sorted(parts & MODULES.keys())]
    assert not old, "\n".join(old)


def test_classes_have_the_words_of_the_field() -> None:
    old = [line for path, tree in trees().items() for line in replaced(CLASSES, public(tree, (ast.ClassDef,)), path)]
    assert not old, "\n".join(old)


def test_functions_have_the_words_of_the_field() -> None:
    old = [line for path, tree in trees().items() for line in replaced(FUNCTIONS, public(tree, FUNCTION), path)]
    assert not old, "\n".join(old)


def test_ordinary_words_are_no_names_where_they_were_riddles() -> None:
    old = []
    for path, tree in trees().items():
        words = {word: new for (folder, word), new in ORDINARY.items() if f"{path.parent}/".startswith(f"{folder}/")}
        old += replaced(words, public(tree, (*FUNCTION, ast.ClassDef)), path)
        old += replaced(words, attributes(tree), path)
    assert not old, "\n".join(old)


def test_few_variables_are_riddles() -> None:
    places = Counter(str(path) for path, tree in trees().items() for name, _ in bound(tree) if name in RIDDLES)
    listed = "\n".join(f"{path}: {count}" for path, count in places.most_common())
    assert places.total() < MOST_RIDDLES, f"{places.total()} places:\n{listed}"
