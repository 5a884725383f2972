"""Define what the commands share: the application, consoles, common options, errors as one message."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from orchestrator.spec.errors import SpecError, nearest
from orchestrator.spec.failures import StoreAway, store_unavailable
from orchestrator.spec.redacting import redacted
from orchestrator.spec.yaml_loader import parse_yaml
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths

app = typer.Typer(
    help="Sweeps over network pruning methods, sparsities and retraining schedules.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# Written to a file or a pipe, which have no width, tables are 120 columns wide. In `a:b:c`, rich would see an emoji.
OUT = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 120)
ERR = Console(stderr=True, highlight=False, emoji=False)

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The search space.")]


def _store(out: str) -> Store:
    with errors():
        return Store.open(out)


RUNS: Any = "runs"
"""Default of `StoreOption`, which typer parses like the text that a user gives."""
StoreOption = Annotated[
    Store,
    typer.Option("--out", metavar="STORE", parser=_store, help="Store of the sweeps: a folder, s3://... or gs://..."),
]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or its folder.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, e.g. --set data.path=images (repeatable)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON to standard output.")]


def find_sweep(sweep: str, out: Store) -> tuple[Store, Path]:
    """Return the store and the folder of a sweep given by name, folder or URI; exit with a message if there is none."""
    from orchestrator.records.bucket_sync import refresh_with_warm_starts

    # Only a plain name is looked up in the store, so that a name such as ../../elsewhere cannot lead out of it.
    plain = Path(sweep).name == sweep != ".."
    with errors():
        if plain and not SweepPaths(Path(sweep)).searchspace.exists():
            store, folder = out, out.folder / sweep
        else:
            opened = Store.open(sweep)
            store, folder = replace(opened, folder=opened.folder.resolve().parent), opened.folder
        refresh_with_warm_starts(store, folder)
        if not SweepPaths(folder).searchspace.exists():
            fail(f"no sweep {sweep!r} under {out.address}{nearest(sweep, out.list_sweeps())}")
    return store, folder


def parse_overrides(texts: list[str] | None) -> dict[str, Any]:
    """Parse the values of ``--set``, each ``KEY=VALUE`` with a YAML value."""
    overrides: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError("--set", f"must be KEY=VALUE, found {text!r}")
        overrides[key] = parse_yaml(value, f"--set {key}")
    return overrides


def cell(value: Any) -> str:
    """Format a value for a cell of a terminal table."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {inner}" for key, inner in value.items())
    return str(value)


@contextmanager
def errors() -> Iterator[None]:
    """Turn the errors that users can mend into one message and exit code 2."""
    try:
        yield
    except SpecError as error:
        fail(str(error))
    except StoreAway as away:
        fail(str(away))
    except PermissionError as error:
        fail(f"{error.filename}: {error.strerror}")
    except ConnectionError as error:
        fail(str(error))
    except OSError as error:
        if not store_unavailable(error):
            raise
        fail(f"{error}; what has ended is kept: make space and run it again")


def fail(message: str) -> NoReturn:
    """Print an error message, without credentials, and exit with code 2."""
    ERR.print(f"error: {redacted(message)}", markup=False, soft_wrap=True)
    raise typer.Exit(2)
