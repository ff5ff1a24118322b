"""Grading of final answers.

- :func:`grade`, :class:`Grade`: the verdict on one response.
- :class:`GraderPool`: isolated worker processes for symbolic answers; :func:`default_pool`: the one that is shared.
- :func:`extract_answer`: where the final answer is looked for.
"""

from espo_env.grading.extraction import extract_answer
from espo_env.grading.grade import grade
from espo_env.grading.judge import Grade, Kind
from espo_env.grading.pool import GraderPool, default_pool

__all__ = ["Grade", "GraderPool", "Kind", "default_pool", "extract_answer", "grade"]
