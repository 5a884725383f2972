"""What every command needs: the application, its consoles, options that several take, errors as one message."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from orchestrator.spec.errors import SpecError, StoreAway, nearest, out_of_space
from orchestrator.spec.redacting import redacted
from orchestrator.spec.search_space import parse_yaml
from orchestrator.storage.uri import address_of, store_folder

app = typer.Typer(
    help="Sweeps over network pruning methods, sparsities and retraining schedules.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# A file or a pipe has no width: tables keep theirs.
OUT = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
ERR = Console(stderr=True, highlight=False)

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE.yaml", help="The search space.")]


def _store(out: str) -> Path:
    with errors():
        return store_folder(out)


Store = Annotated[
    Path,
    typer.Option("--out", metavar="STORE", parser=_store, help="What sweeps share: a folder, s3://... or gs://..."),
]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name, or its folder.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, e.g. --set data.path=images (repeatable)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on standard output, nothing else.")]


def sweep_folder(sweep: str, out: Path) -> Path:
    """The folder of a sweep given by name or by path."""
    from orchestrator.records.bucket_sync import refresh_all, sweeps_of

    # Only a plain name is looked up in the store: nothing like ../../elsewhere leads out of it.
    plain = Path(sweep).name == sweep != ".."
    with errors():
        named = out / sweep if plain and not (Path(sweep) / "searchspace.yaml").exists() else store_folder(sweep)
        refresh_all(named)
        if not (named / "searchspace.yaml").exists():
            fail(f"no sweep {sweep!r} under {address_of(out)}{nearest(sweep, sweeps_of(out))}")
    return named


def settings_of(given: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SpecError("--set", f"must be KEY=VALUE, found {text!r}")
        found[key] = parse_yaml(value, f"--set {key}")
    return found


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return "\n".join(f"{key}: {inner}" for key, inner in value.items())
    return str(value)


@contextmanager
def errors() -> Iterator[None]:
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
        if not out_of_space(error):
            raise
        fail(f"{error}; what has ended is kept: make space and run it again")


def fail(message: str) -> NoReturn:
    ERR.print(f"error: {redacted(message)}", markup=False, soft_wrap=True)
    raise typer.Exit(2)
