"""Scoring: the log-probability of every completion token.

logps          score(model, batch): the one place where position t predicts token t + 1
layouts        how a batch's tokens are arranged, so that each prompt is read once
attention      what the packed layout needs beneath a model
self_check     exact_layouts(model): a layout is tried on a model before it is used
micro_batches  a batch split so that a pass fits into memory
"""
