"""Training: the trainer, its objective, optimisers, references, guards and checkpoints."""
