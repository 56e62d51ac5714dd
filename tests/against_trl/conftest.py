"""What Hugging Face's libraries read once, while they are imported."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here needs the network, so nothing may try
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # importing trl.experimental warns, and warnings are errors
