"""Structured pruning: removal of whole channels from a tf_keras model.

`tracing` finds which channels stand or fall together, by the `rules` for each kind of
layer; `importance` scores them; `surgery` chooses the ones to go and builds the model
without them.
"""
