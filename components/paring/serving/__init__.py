"""Versioned publication of models for serving."""
