"""Scoring: the log-probability of every completion token, by layouts that run each token once."""
