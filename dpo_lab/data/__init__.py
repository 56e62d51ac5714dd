"""Sources of text."""

from dpo_lab.data.base import DATA, Corpus, DataSource, Feedback

__all__ = ["DATA", "Corpus", "DataSource", "Feedback"]
