"""The embedded engine: continuous batching in plain torch (``engine.py``), with its slots and its cache."""
