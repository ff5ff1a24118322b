"""Searches for settings with Ray Tune.

- ``search_file.py``: a configuration with ranges; ``ranges.py``: the ranges
- ``search.py``: :func:`~espo_algo.tuning.search.search`, behind ``espo tune``; ``trial.py``: one trial of it
- ``placement.py``: what a trial asks of the machine, and how many fit
- ``metrics.py``: what is reported, under readable names
- ``trials.py``: trials as a table; ``summary.py``: table and plot of a ``ResultGrid`` by one call
- ``restore.py``: experiments of Ray Tune itself, after their driver was killed
"""
