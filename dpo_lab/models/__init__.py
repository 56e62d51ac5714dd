"""Policies: how to build, copy, save and load them."""
