"""Runners, one file each. What a file here registers is found by its folder."""
