"""Datasets: the contract on disk, importers into it, the manifest, and packed shards."""
