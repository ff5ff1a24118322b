"""Mathematical problems out of files or from the Hugging Face hub.

- :class:`MathTask`: GSM8K, MATH, MATH-500, AIME 2024, AMC 2023, DAPO-Math-17k, or a data set of one's own.
- :class:`SplitReport`: what was read and what was left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from espo_env.grading import Grade, default_pool, grade
from espo_env.grading.judge import judge
from espo_env.tasks.base import Problem, Split, Task
from espo_env.tasks.math_presets import Preset, get_preset
from espo_env.tasks.math_sources import read_rows
from espo_env.tasks.templates import PromptTemplate
from espo_env.tokenizer import Tokenizer

__all__ = ["MathTask", "SplitReport"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What was read for a split, in rows: ``rows`` is the sum of the other five.

    Attributes:
        source: File or hub name.
        rows: Rows read.
        kept: Problems of the split.
        no_answer: Rows whose answer is null or empty, left out.
        duplicates: Rows whose problem stands in an earlier row, left out.
        overlap: Training rows whose problem is in the eval split as well, left out.
        too_long: Rows whose prompt has more than ``max_prompt_tokens`` tokens, left out.
    """

    source: str
    rows: int
    kept: int
    no_answer: int
    duplicates: int
    overlap: int
    too_long: int

    def __str__(self) -> str:
        return (
            f"{self.source}: {self.kept} of {self.rows} problems kept; left out {self.no_answer} without an answer, "
            f"{self.duplicates} duplicates, {self.overlap} of the eval split, {self.too_long} too long"
        )


class MathTask(Task):
    """Problems of a mathematical data set.

    A data set is a file (``.jsonl``, ``.json``, ``.parquet``) or a hub name (``owner/name:config@split``). Without
    ``train`` and ``eval``, the preset's own hub names are read.

    Args:
        model: Model folder with a ``tokenizer.json``, or a tokenizer.
        train: Data set to learn from.
        eval: Data set to measure on. A training problem that is also in here is left out of training.
        preset: Name out of :data:`~espo_env.tasks.math_presets.PRESETS`, or the attributes of a
            :class:`~espo_env.tasks.math_presets.Preset` for a data set of one's own.
        eval_preset: The same for ``eval``, where it is another data set than ``train``.
        template: Prompt template by name (see :class:`~espo_env.tasks.templates.PromptTemplate`); the preset's own if
            None.
        max_prompt_tokens: Problems with a longer prompt are left out, and counted.

    Attributes:
        reports: What was read and left out, by split.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a preset or template is unknown, a row cannot be read (with file and line), or a data set has no
            problem left.
        ImportError: If a package is missing that a source or a chat template needs, naming the extra.

    Example:
        >>> task = MathTask("models/Qwen2.5-1.5B", eval="math500.jsonl", preset="math-500")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | Tokenizer,
        train: str | Path | None = None,
        eval: str | Path | None = None,
        preset: str | Preset | Mapping[str, Any] = "default",
        eval_preset: str | Preset | Mapping[str, Any] | None = None,
        template: str | None = None,
        max_prompt_tokens: int = 1024,
    ) -> None:
        super().__init__(model if isinstance(model, Tokenizer) else Tokenizer.from_pretrained(model))
        presets: dict[Split, Preset] = {"train": get_preset(preset)}
        presets["eval"] = presets["train"] if eval_preset is None else get_preset(eval_preset)
        if train is None and eval is None:
            train, eval = presets["train"].train, presets["eval"].eval
            if train is None and eval is None:
                raise ValueError(f"expected a data set as train or eval, got none, and preset {preset!r} names none")
        self._problems: dict[Split, list[Problem]] = {}
        self.reports: dict[Split, SplitReport] = {}
        self._max_prompt_tokens = 0
        seen_in_eval: set[str] = set()
        sources: tuple[tuple[Split, str | Path | None], ...] = (("eval", eval), ("train", train))
        for split, source in sources:
            if source is None:
                continue
            folder = "" if isinstance(model, Tokenizer) else model
            prompt = PromptTemplate(template, presets[split].template, folder)
            problems, report = self._load(source, presets[split], prompt, seen_in_eval, max_prompt_tokens)
            if split == "eval":
                seen_in_eval = {_identity(problem.metadata["text"]) for problem in problems}
            logger.info("%s: %s", split, report)
            if not problems:
                raise ValueError(f"expected problems for split {split!r}, got none: {report}")
            self._problems[split], self.reports[split] = problems, report

    def _load(
        self,
        source: str | Path,
        preset: Preset,
        prompt: PromptTemplate,
        seen_in_eval: set[str],
        max_prompt_tokens: int,
    ) -> tuple[list[Problem], SplitReport]:
        drafts: list[Problem] = []
        seen: set[str] = set()
        rows = no_answer = duplicates = overlap = 0
        for location, row in read_rows(source):
            rows += 1
            try:
                record = preset.read(row)
            except ValueError as error:
                raise ValueError(f"{location}: {error}") from None
            identity = _identity(record.problem)
            if record.answer is None:
                no_answer += 1
            elif identity in seen:
                duplicates += 1
            elif identity in seen_in_eval:
                overlap += 1
            else:
                # A solution that does not end in a readable answer teaches nothing that is rewarded.
                verdict = judge(record.solution, record.answer, preset.kind)
                solution = record.solution if isinstance(verdict, Grade) and verdict.correct else ""
                metadata = {
                    "text": record.problem,
                    "level": record.level,
                    "location": location,
                    "kind": preset.kind,
                }
                drafts.append(Problem(prompt(record.problem), record.answer, solution, metadata=metadata))
            seen.add(identity)
        lengths = [len(tokens) for tokens in self.tokenizer.encode_batch([draft.prompt for draft in drafts])]
        kept = [draft for draft, length in zip(drafts, lengths, strict=True) if length <= max_prompt_tokens]
        self._max_prompt_tokens = max(self._max_prompt_tokens, *(n for n in lengths if n <= max_prompt_tokens), 0)
        problems = [replace(draft, index=index) for index, draft in enumerate(kept)]
        too_long = len(drafts) - len(kept)
        return problems, SplitReport(str(source), rows, len(kept), no_answer, duplicates, overlap, too_long)

    def num_problems(self, split: Split) -> int:
        """Problems that were kept.

        Raises:
            ValueError: If no data set was given for the split.
        """
        if split not in self._problems:
            raise ValueError(f"expected a data set for split {split!r}, got sources for {sorted(self._problems)} only")
        return len(self._problems[split])

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that was kept."""
        return self._max_prompt_tokens

    def problem(self, index: int, split: Split = "train") -> Problem:
        """Problem ``index`` in the order of the file; its metadata has ``text``, ``level``, ``location``, ``kind``."""
        self.check_index(index, split)
        return self._problems[split][index]

    def grade(self, problem: Problem, response: str) -> Grade:
        """The verdict on the final answer, compared as the data set's preset says."""
        return grade(response, problem.answer, problem.metadata["kind"], problem.metadata["text"])

    def submit(self, problem: Problem, response: str) -> Future[Grade]:
        """Starts grading in the background, so that decoding need not wait for a parser."""
        return default_pool().submit(response, problem.answer, problem.metadata["kind"], problem.metadata["text"])


def _identity(text: str) -> str:
    """What makes two problems the same: their text but for white space and case."""
    return " ".join(text.split()).casefold()
