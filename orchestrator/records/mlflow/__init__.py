"""The MLflow view: one experiment a sweep, one parent run, one child run a trial."""
