"""Recipe advice from the facts of a model."""
