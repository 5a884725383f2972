"""Build the figures of a report, one file per topic, as values of `model.py` that Plotly and SVG draw."""
