"""How much Optuna logs."""

from __future__ import annotations

import optuna


def errors_only() -> None:
    """Keep Optuna's warnings out of the live table; what a user must know of a search, the sweep says itself."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
