"""Metrics, inference and scoring of candidates."""
