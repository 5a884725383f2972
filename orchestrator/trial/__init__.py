"""One trial, from specification to record, without Ray and without MLflow."""
