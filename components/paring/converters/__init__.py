"""Converters from SavedModels to other model formats."""
