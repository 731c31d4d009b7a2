"""Search for the best recipe and parameters within a time: `paring run --budget-minutes`.

`plan` says what to try, `space` draws parameters, `cost` predicts times, `journal`
remembers, and `loop` runs it. All but the loop know neither TFX nor TensorFlow.
"""
