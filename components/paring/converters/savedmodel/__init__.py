"""Graph variants of a SavedModel for serving."""
