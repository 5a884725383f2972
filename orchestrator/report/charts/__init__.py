"""One file a figure; each builds the charts of `model.py`, which plotly and the static formats draw."""
