"""Run one trial, from specification to record, without Ray and MLflow."""
