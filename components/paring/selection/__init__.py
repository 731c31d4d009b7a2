"""Pareto front and explanations of a selection."""
