"""The environment variables that Ray is run with."""

from __future__ import annotations

import os

_VARIABLES = {
    # Tune's default loggers and its snapshots of the experiment cost more than a short trial and are of no use here,
    # where the records are the truth.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Interrupts are handled by `driver/interrupts.py`.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A job without GPUs leaves CUDA_VISIBLE_DEVICES alone.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def configure_ray_environment() -> None:
    """Set the variables that Ray and Tune read, where the user has not set them; to be called before Ray is imported.

    Ray's workers inherit them, and some releases of Ray read some of them when they are imported.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
