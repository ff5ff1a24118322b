"""The generators of reasoning-gym as a task.

- :class:`ReasoningGymTask`: problems of one generator; right or wrong, no partial credit.
- :data:`REFUSED`: generators that are not used, and why.
"""

from __future__ import annotations

import difflib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from espo_env.grading import Grade, extract_answer, grade
from espo_env.grading.extraction import last_number
from espo_env.tasks.base import Problem, Split, Task
from espo_env.tasks.reasoning_gym_working import WORKINGS
from espo_env.tasks.splits import split_of
from espo_env.tasks.templates import PromptTemplate
from espo_env.tokenizer import Tokenizer

__all__ = ["REFUSED", "Answers", "ReasoningGymTask"]

Answers = Literal["marked", "last_number"]
"""Which part of a response counts as its final answer."""

_EVAL = "its scorer passes the response to eval(), which runs whatever the response says"
_SYMPY = "its scorer passes the response to sympy's parse_expr(), which runs whatever the response says"
REFUSED: dict[str, str] = {
    "binary_matrix": _EVAL,
    "composite": "it hands responses to the scorers of other generators; build one task for each generator",
    "countdown": _SYMPY,
    "intermediate_integration": _SYMPY,
    "n_queens": _EVAL,
    "polynomial_multiplication": _SYMPY,
    "puzzle24": _SYMPY,
    "simple_integration": _SYMPY,
    "spiral_matrix": _EVAL,
    "string_insertion": _EVAL,
}
"""Generator -> why it is refused (reasoning-gym 0.1.25)."""

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
_PROBES = 64
_CACHED = 4096
_MEASURED = 64


class ReasoningGymTask(Task):
    """Problems of one reasoning-gym generator.

    A response is right if reasoning-gym scores its final answer (see :func:`espo_env.grading.extract_answer`; or all
    that stands behind the last ``####``) with exactly 1, or if the answer is a number and the final answer equals it.
    Partial credit counts as wrong: reasoning-gym gives it to text that merely contains the answer.

    Training and evaluation never share a problem. Item ``i`` of a generator depends on ``seed + i`` alone, so the
    splits take different indices, not different seeds; and because a small space of problems would repeat itself all
    the same, the text of a problem decides which split it belongs to.

    Args:
        generator: Name of the generator, e.g. ``"chain_sum"``.
        tokenizer: A tokenizer, or a model folder to read it from. None: with ``prompt="compact"`` one token for each
            character that prompts and workings have, otherwise one for each byte.
        seed: Another seed is another set of problems, >= 0.
        prompt: ``"question"``: the full question and a line break. ``"compact"``: what matters of it, such as
            ``17+25-8=``, for small models; for generators in ``WORKINGS`` with a compact form. ``"chat"``: the
            question in the chat template of the model folder that ``tokenizer`` names; ``"chat:<wording>"`` with a
            wording around it. Any wording is a text with ``{question}`` in it, and may stand alone.
        answers: ``"marked"``: the final answer must be marked as one. ``"last_number"``: it is the last number of the
            response, for models that were never taught to mark theirs.
        max_prompt_tokens: Longer problems are passed over. None measures some problems and adds a quarter; give it for
            generators that take their time.
        num_train: Problems to learn from.
        num_eval: Problems to measure on.
        **config: Options of the generator.

    Raises:
        ImportError: If reasoning-gym is not installed.
        ValueError: If the generator is unknown or refused, or an argument is out of its range.
    """

    def __init__(
        self,
        generator: str,
        tokenizer: Tokenizer | str | Path | None = None,
        seed: int = 0,
        prompt: str = "question",
        answers: Answers = "marked",
        max_prompt_tokens: int | None = None,
        num_train: int = 100_000,
        num_eval: int = 10_000,
        **config: Any,
    ) -> None:
        if generator in REFUSED:
            raise ValueError(f"expected a generator that can be scored safely, got {generator!r}: {REFUSED[generator]}")
        if "size" in config:
            raise ValueError(f"expected num_train and num_eval instead of size, got size={config['size']}")
        for name, value, least in (("seed", seed, 0), ("num_train", num_train, 1), ("num_eval", num_eval, 1)):
            if value < least:
                raise ValueError(f"expected {name} >= {least}, got {value}")
        symbols = WORKINGS[generator].symbols if generator in WORKINGS else None
        if prompt == "compact" and symbols is None:
            known = sorted(name for name, working in WORKINGS.items() if working.symbols)
            raise ValueError(f"expected a generator with a compact prompt ({known}), got {generator!r}")
        if prompt not in ("question", "compact", "chat") and "{question}" not in prompt:
            raise ValueError(
                f"expected prompt 'question', 'compact', 'chat' or a template with {{question}}, got {prompt!r}"
            )
        if answers not in get_args(Answers):
            raise ValueError(f"expected answers out of {list(get_args(Answers))}, got {answers!r}")
        if prompt.partition(":")[0] == "chat" and not isinstance(tokenizer, str | Path):
            raise ValueError(f"expected the model folder as tokenizer with prompt {prompt!r}, got {tokenizer!r}")
        self._model = None if isinstance(tokenizer, Tokenizer) else tokenizer
        if isinstance(tokenizer, str | Path):
            tokenizer = Tokenizer.from_pretrained(tokenizer)
        elif tokenizer is None:
            compact = prompt == "compact" and symbols
            tokenizer = Tokenizer.from_symbols(sorted(set(compact))) if compact else Tokenizer.from_bytes()
        super().__init__(tokenizer)
        self.generator = generator
        self.seed = seed
        self.prompt = prompt
        self.answers = answers
        self.num_train = num_train
        self.num_eval = num_eval
        self.config = config
        self._max_prompt_tokens = max_prompt_tokens
        self._start_caches()
        self._dataset(0)

    def num_problems(self, split: Split) -> int:
        """``num_train`` or ``num_eval``."""
        return self.num_train if split == "train" else self.num_eval

    @property
    def max_prompt_tokens(self) -> int:
        """As given, or measured once."""
        if self._max_prompt_tokens is None:
            drawn = (self._candidate(0, index) for index in range(min(_MEASURED, self.num_train)))
            longest = max(len(self.encode_prompt(problem)) for problem in drawn)
            self._max_prompt_tokens = longest + longest // 4 + 1
        return self._max_prompt_tokens

    def problem(self, index: int, split: Split = "train") -> Problem:
        """Problem ``index`` of the split. Its metadata is the generator's entry."""
        self.check_index(index, split)
        return self._cached_problem(index, split)

    def right_responses(self, problem: Problem) -> list[str]:
        """The reference solution, and where the order of its working is free, all orders."""
        working = WORKINGS.get(self.generator)
        if working is None or working.alternatives is None:
            return [problem.solution]
        shorten = working.shorten if self.prompt == "compact" else str
        others = (f"{text}#### {problem.answer}" for text in working.alternatives(dict(problem.metadata)))
        return [problem.solution, *map(shorten, others)]

    def grade(self, problem: Problem, response: str) -> Grade:
        """Right if reasoning-gym gives full marks, or the number is the same."""
        answer = response.rpartition("####")[2].strip() if "####" in response else extract_answer(response)
        if self.answers == "last_number":
            answer = last_number(response)
            response = f"#### {answer}"
        if not answer:
            return Grade(False, None, "no_answer")
        if _NUMBER.fullmatch(problem.answer):
            verdict = grade(response, problem.answer, kind="numeric")
            if verdict.correct:
                return verdict
        try:
            expand = WORKINGS[self.generator].expand if self.prompt == "compact" else str
            score = self._dataset(0).score_answer(expand(answer), problem.metadata)
        except Exception:  # scorers are not made for everything that a policy may write
            return Grade(False, answer, "scorer_failed")
        return Grade(score == 1.0, answer, "equal" if score == 1.0 else "different")

    def _problem(self, index: int, split: Split) -> Problem:
        limit = self.max_prompt_tokens
        place = index if split == "train" else self.num_train + index
        for probe in range(_PROBES):
            problem = self._candidate(probe, place)
            text = f"{problem.metadata['question']}\n{problem.answer}"
            if split_of(text) == split and len(self.encode_prompt(problem)) <= limit:
                return Problem(problem.prompt, problem.answer, problem.solution, index, problem.metadata)
        raise ValueError(
            f"{self.generator}: expected a problem for index {index} of {split!r} with a prompt of at most {limit} "
            f"tokens, got none in {_PROBES} draws"
        )

    def _candidate(self, probe: int, place: int) -> Problem:
        entry = self._dataset(probe)[place]
        compact, working = WORKINGS[self.generator].write(entry) if self.generator in WORKINGS else ("", "")
        solution = f"{working}#### {entry['answer']}"
        if self.prompt == "compact":
            shorten = WORKINGS[self.generator].shorten
            prompt, solution = shorten(compact), shorten(solution)
        elif self._chat is not None:
            prompt = self._chat(entry["question"])
        elif self.prompt == "question":
            prompt = entry["question"].rstrip() + "\n"
        else:
            prompt = self.prompt.replace("{question}", entry["question"])
        return Problem(prompt, str(entry["answer"]), solution, place, entry)

    def _create_dataset(self, probe: int) -> Any:
        try:
            import reasoning_gym
        except ImportError as error:
            raise ImportError("expected reasoning-gym to be installed: pip install 'espo[tasks]'") from error
        from reasoning_gym.factory import DATASETS

        if self.generator not in DATASETS:
            near = difflib.get_close_matches(self.generator, DATASETS, n=5)
            raise ValueError(
                f"expected one of reasoning-gym's {len(DATASETS)} generators, got {self.generator!r} ({near=})"
            )
        size = self.num_train + self.num_eval
        seed = (self.seed * _PROBES + probe) * size  # no two (seed, probe, index) meet
        try:
            return reasoning_gym.create_dataset(self.generator, seed=seed, size=size, **self.config)
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"{self.generator}: expected options that it takes, got {self.config}: {error}") from error

    def _start_caches(self) -> None:
        self._dataset = lru_cache(maxsize=_PROBES)(self._create_dataset)
        self._cached_problem = lru_cache(maxsize=_CACHED)(self._problem)
        chat, _, wording = self.prompt.partition(":")
        self._chat = None
        if chat == "chat" and self._model is not None:
            template = wording.replace("{question}", "{problem}") or "plain"
            self._chat = PromptTemplate(f"chat:{template}", "plain", self._model)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in vars(self).items() if name not in ("_dataset", "_cached_problem", "_chat")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start_caches()
