"""The laws of preference losses, and `python -m dpo_lab.check`, which tests them on any loss."""
