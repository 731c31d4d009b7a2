"""Partition of a model into stages."""
