"""From rows to feedback: which fields hold the prompt, the completions and their labels, in each common format."""
