"""Runs side by side. Reads run directories and nothing else."""
