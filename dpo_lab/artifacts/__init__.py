"""The artifact store and what it stands on: digests, fingerprints of computations, files that survive a kill."""
