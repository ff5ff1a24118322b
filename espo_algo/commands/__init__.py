"""The command line ``espo`` (``cli.py``), and the functions that its commands call."""
