"""The process that parses and compares expressions with math-verify; the only module that imports it.

:class:`~espo_env.grading.pool.GraderPool` starts this file by its path with ``python -I`` and an empty environment. It
reads one JSON request a line, ``{"references": [...], "answers": [...], "ordered": true}``, and writes one reply a
line, ``{"verdict": "equal"}``. It limits its own memory, CPU time, files and processes, because what it parses was
written by a policy that is paid for breaking it. Whoever started it limits the wall time.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import resource
import sys

from math_verify import LatexExtractionConfig, parse, verify
from math_verify.parser import NormalizationConfig
from sympy import Add, Basic, Expr, Integer, MatrixBase, Mul, Number, Pow, preorder_traversal

# Units have been taken off; what looks like one here is a variable (the m of 2m, the ab of 5ab).
_NORMALIZATION = NormalizationConfig(units=False, malformed_operators=True, nits=True, boxed="all")
_CONFIG = [LatexExtractionConfig(normalization_config=_NORMALIZATION)]
# Enough that a decimal with the usual six places does not pass for an irrational number.
_DECIMALS = 12


def _parse(latex: str) -> list[Basic | MatrixBase]:
    # math-verify's own timeouts are signals for each stage; here the process is killed instead.
    return parse(rf"\boxed{{{latex}}}", _CONFIG, fallback_mode="no_fallback", parsing_timeout=None)


# The responses to one problem repeat its reference.
_parse_reference = functools.lru_cache(maxsize=1024)(_parse)


def _nodes(expression: Basic | MatrixBase) -> list[Basic]:
    roots = expression.flat() if isinstance(expression, MatrixBase) else [expression]
    return [node for root in roots for node in preorder_traversal(root)]


def _quotient(node: Basic) -> bool:
    """Whether the node is written as one integer over another."""
    if isinstance(node, Pow):
        return isinstance(node.base, Integer) and node.exp == -1
    return isinstance(node, Mul) and all(isinstance(arg, Integer) or _quotient(arg) for arg in node.args)


def _unevaluated(expression: Basic | MatrixBase) -> bool:
    """Whether something is left to work out: like terms, a product of integers, a root or power that is a number."""
    for node in _nodes(expression):
        if isinstance(node, Add):
            kinds = [1 if isinstance(term, Number) else term.as_coeff_Mul()[1] for term in node.args]
            if len(set(kinds)) < len(kinds):
                return True
        elif isinstance(node, Mul) and sum(isinstance(arg, Integer) and abs(arg) != 1 for arg in node.args) > 1:
            return True
        constant = isinstance(node, Expr) and node.args and not node.free_symbols and not _quotient(node)
        if constant and node.doit().is_Rational:
            return True
    return False


def _close(reference: Basic | MatrixBase, answer: Basic | MatrixBase) -> bool:
    """Whether two constants agree in relation to their size, too.

    math-verify compares their difference with zero, so that all constants below 1e-15 are equal to it.
    """
    if not (isinstance(reference, Expr) and isinstance(answer, Expr)) or reference.free_symbols | answer.free_symbols:
        return True
    value, other = reference.evalf(15), answer.evalf(15)
    if not (value.is_number and other.is_number and value.is_finite and other.is_finite):
        return True
    return bool(abs(value - other) <= 1e-9 * max(abs(value), abs(other)))


@functools.lru_cache(maxsize=4096)  # and so do their answers
def _equal(reference: str, answer: str) -> str:
    """Compares one pair."""
    golds, answers = _parse_reference(reference), _parse(answer)
    if not golds:
        return "unparsable_reference"
    if not answers:
        return "unparsable"
    if not verify(golds, answers, float_rounding=_DECIMALS, timeout_seconds=None):
        return "different"
    gold, found = golds[0], answers[0]
    if not _close(gold, found):
        return "different"
    return "unevaluated" if _unevaluated(found) and not _unevaluated(gold) else "equal"


def decide(references: list[str], answers: list[str], ordered: bool) -> str:
    """Compares as many answers with as many references; the reason of the first that fails, or ``"equal"``."""
    if ordered:
        verdicts = (_equal(reference, answer) for reference, answer in zip(references, answers, strict=True))
        return next((verdict for verdict in verdicts if verdict != "equal"), "equal")
    left = list(answers)
    for reference in references:
        verdict = "different"
        for answer in left:
            verdict = _equal(reference, answer)
            if verdict == "equal":
                left.remove(answer)
                break
        if verdict != "equal":
            return verdict
    return "equal"


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


def _limit_cpu(seconds: int) -> None:
    """Lets the process live for so many more seconds of CPU time, counted from now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 1 + seconds, hard))


def _peak_bytes() -> int:
    """The process's largest resident size so far; ``ru_maxrss`` would be the parent's, if that was larger."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), 0)


def main() -> None:
    """Serves requests until standard input ends."""
    memory_bytes, cpu_seconds = int(sys.argv[1]), int(sys.argv[2])
    logging.disable()
    # Whatever a library prints must not end up between the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    decide(["x^2+\\sqrt{2}"], ["\\sqrt{2}+x^2"], True)  # builds the parser's tables before the clock runs
    _limit(memory_bytes)
    replies.write('{"ready": true}\n')
    for line in sys.stdin:
        _limit_cpu(cpu_seconds)
        try:
            verdict = decide(**json.loads(line))
        except MemoryError:
            verdict = "memory"
        except RecursionError:
            verdict = "unparsable"
        # The libraries swallow MemoryErrors of their own, so the high-water mark is asked as well.
        if _peak_bytes() > memory_bytes // 2:
            verdict = "memory"
        replies.write(json.dumps({"verdict": verdict}) + "\n")
        if verdict == "memory":
            return  # a process this large is replaced by a fresh one


if __name__ == "__main__":
    main()
