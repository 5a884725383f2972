"""Analyse a sweep's records: means, differences, Pareto fronts, sensitivities, comparison with published tables."""
