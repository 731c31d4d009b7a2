"""`paring run --budget-minutes`: which recipes to try next, within a time.

`plan` says what to try, `space` draws parameters, `cost` predicts times, `journal`
remembers, and `loop` runs it. All but the loop know neither TFX nor TensorFlow.
"""
