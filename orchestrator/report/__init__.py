"""A sweep told in words, tables and figures: one self-contained page."""
