"""How good a policy is: evaluation, scores on data sets, logs of responses, reports.

- :func:`evaluate_policy`, :class:`Evaluation` (``evaluate.py``)
"""

from espo_algo.evaluation.evaluate import Evaluation, evaluate_policy

__all__ = ["Evaluation", "evaluate_policy"]
