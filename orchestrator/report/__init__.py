"""Write the report of a sweep: conclusions, figures and tables on one self-contained page."""
