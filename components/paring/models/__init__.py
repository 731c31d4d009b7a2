"""Signatures, loading and checks of user-provided models."""
