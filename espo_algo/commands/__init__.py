"""The command line ``espo``, and what its commands are made of."""
