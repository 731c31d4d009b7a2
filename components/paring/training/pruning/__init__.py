"""Magnitude pruning of Keras layers."""
