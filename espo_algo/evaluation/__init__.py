"""Evaluation of policies, and how results are written down and shown.

- ``evaluate.py``: :func:`evaluate_policy`, :class:`Evaluation`: a policy on problems of the evaluation split
- ``in_training.py``: the same on the evaluation runners, between or beside training iterations
- ``benchmark.py``, ``scores.py``: data sets, with avg@k, pass@k and maj@k
- ``response_log.py``, ``report.py``: responses as JSON Lines; tables and curves
- ``snapshots.py``, ``response_recorder.py``, ``responses_page.py``: responses recorded in training, and their page
"""

from espo_algo.evaluation.evaluate import Evaluation, evaluate_policy

__all__ = ["Evaluation", "evaluate_policy"]
