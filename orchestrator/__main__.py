"""``python -m orchestrator`` is ``prunesweep``."""

from orchestrator.cli import main

main()
