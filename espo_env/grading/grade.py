"""The verdict on a response.

- :func:`grade`: extracts the final answer and compares it with the reference.
"""

from __future__ import annotations

from espo_env.grading.judge import Grade, Kind, Undecided, judge
from espo_env.grading.pool import default_pool

__all__ = ["grade"]


def grade(response_text: str, reference: str, kind: Kind = "numeric", question: str = "") -> Grade:
    r"""Grades the final answer of a response.

    Args:
        response_text: What the policy wrote; :func:`~espo_env.grading.extraction.extract_answer` says where the
            answer is looked for.
        reference: The right answer.
        kind: ``"numeric"``: the answer must be one number literal that equals the reference exactly, so that "12+7"
            is not 19, and "38/2" is not either; nothing but the standard library is used. ``"symbolic"``: any
            mathematical answer in LaTeX, a number also with a power left standing; what cannot be decided by comparing
            text goes to :func:`~espo_env.grading.pool.default_pool`.
        question: The problem. If given, an expression copied out of it does not pass for its answer.

    Returns:
        The verdict. Whatever the response says, nothing is raised and nothing in it is executed.

    Raises:
        TypeError: If the reference is no string (None, where it is missing).
        ValueError: If the kind is unknown, the reference is empty, or not a number where one is needed.
        ImportError: If the comparison needs math-verify, and it is not installed (extra ``math``).

    >>> grade(r"so we get \boxed{\frac{1}{2}}", "0.5")
    Grade(correct=True, answer='\\frac{1}{2}', reason='equal')
    """
    outcome = judge(response_text, reference, kind, question)
    if isinstance(outcome, Undecided):
        return default_pool().grade(response_text, reference, kind, question)
    return outcome
