"""Responses as JSON Lines.

- :class:`ResponseLog`: a file to which responses are appended as they finish, and from which a restarted run goes on.
- :func:`to_record`, :func:`to_episode`: one response as a JSON object, and back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from espo_algo.episodes import TokenEpisode
from espo_env.grading import Grade
from espo_env.tasks import Problem
from espo_env.tasks.math_sources import read_rows
from espo_env.tokenizer import Tokenizer
from espo_env.types import TRACE_COLUMNS, StopReason

__all__ = ["ResponseLog", "to_episode", "to_record"]

_COLUMNS = tuple(name for name in TRACE_COLUMNS if name != "logprobs")


def to_record(episode: TokenEpisode, tokenizer: Tokenizer, columns: bool) -> dict[str, Any]:
    """One response, readable by people and complete enough to be shown again.

    Args:
        episode: With its problem, unless it was lost.
        tokenizer: Turns its tokens into text.
        columns: Whether regret, value, ``z`` and threshold of each token are written as well, with four digits.
    """
    problem = episode.problem
    record: dict[str, Any] = {
        "index": None if problem is None else problem.index,
        "prompt": tokenizer.decode(episode.prompt_tokens),
        "response": tokenizer.decode(episode.response_tokens),
        "reference": None if problem is None else problem.answer,
        "stop_reason": episode.stop_reason.value,
        "correct": episode.correct,
        "grade": None if episode.grade is None else asdict(episode.grade),
        "reward": episode.reward,
        "mark": episode.mark,
        "error": episode.error,
        "seed": episode.seed,
        "prompt_tokens": episode.prompt_tokens.tolist(),
        "response_tokens": episode.response_tokens.tolist(),
    }
    if columns:
        # JSON knows no infinity: null is a threshold that nothing passes.
        record |= {name: [_rounded(x) for x in getattr(episode, name).tolist()] for name in _COLUMNS}
    return record


def to_episode(record: Mapping[str, Any]) -> TokenEpisode:
    """The response of a record; of its problem the prompt, the answer and the index are known."""
    episode = TokenEpisode(
        prompt_tokens=np.array(record["prompt_tokens"], np.int32),
        response_tokens=np.array(record["response_tokens"], np.int32),
        stop_reason=StopReason(record["stop_reason"]),
        reward=record["reward"],
        mark=record["mark"],
        correct=record["correct"],
        seed=record["seed"],
        error=record["error"],
    )
    if record["reference"] is not None:
        episode.problem = Problem(record["prompt"], record["reference"], index=record["index"])
    if record["grade"] is not None:
        episode.grade = Grade(**record["grade"])
    for name in _COLUMNS:
        column = [math.inf if x is None else x for x in record.get(name, [])]
        setattr(episode, name, np.array(column, np.float32))
    return episode


class ResponseLog:
    """A JSON Lines file: what its responses come from in the first line, then a response in each line.

    A line that a killed run left half-written is cut off. Two runs must not write to it at the same time.

    Args:
        path: Made, with its folder, if it is missing.
        source: What the responses depend on, as JSON.
        tokenizer: Turns tokens into text.
        columns: See :func:`to_record`.

    Attributes:
        episodes: Number of a response -> the response, for those that are there.

    Raises:
        ValueError: If the file has responses that come from something else, naming the difference.
    """

    def __init__(self, path: str | Path, source: Mapping[str, Any], tokenizer: Tokenizer, columns: bool) -> None:
        self.path = Path(path)
        self._tokenizer = tokenizer
        self._columns = columns
        self.episodes: dict[int, TokenEpisode] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        self._cut_half_line()
        lines = [line for _, line in read_rows(self.path)]
        # As it comes back from a file.
        source = json.loads(json.dumps(source))
        if not lines:
            self._write({"source": source})
            return
        before = lines[0].get("source", {})
        if different := sorted(name for name in {*before, *source} if before.get(name) != source.get(name)):
            self._file.close()
            changes = ", ".join(f"{name} {before.get(name)!r} (now {source.get(name)!r})" for name in different)
            raise ValueError(
                f"{path}: expected responses that come from the same, got {changes}; choose another output"
            )
        for line in lines[1:]:
            self.episodes[line["number"]] = to_episode(line)

    def append(self, number: int, episode: TokenEpisode) -> None:
        """Writes a response; it is safe from the end of this process, whatever ends it."""
        self._write({"number": number, **to_record(episode, self._tokenizer, self._columns)})
        self.episodes[number] = episode

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> ResponseLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line, ensure_ascii=False, allow_nan=False)
        self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        self._file.flush()

    def _cut_half_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        self._file.truncate(content.rfind(b"\n") + 1)


def _rounded(number: float) -> float | None:
    return float(f"{number:.4g}") if math.isfinite(number) else None
