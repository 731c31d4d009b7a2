"""Training of a SavedModel's graph, for models that have no Keras form."""
