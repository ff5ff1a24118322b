"""The token MDP for many slots at once.

- :class:`TokenGenerationVectorEnv`: a Gymnasium vector environment in bulk numpy.
- :class:`Completed`: what whole responses brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from espo_env.rendering import render
from espo_env.tasks.base import Problem, Split, Task
from espo_env.token_mdp import RENDER_MODES, Horizon, TokenMDP, check_options
from espo_env.types import StopReason, Trajectory

__all__ = ["Completed", "TokenGenerationVectorEnv"]

Observation = dict[str, NDArray[np.int32]]


@dataclass(slots=True)
class Completed:
    """The outcome of ``n`` whole responses, in the order they were given.

    Attributes:
        rewards: Shape (n,), the reward of each last transition.
        terminations: Shape (n,).
        truncations: Shape (n,).
        correct: The grader's verdicts, None where nothing was graded.
        errors: What the task or its grader raised, None where all went well. Such a response has reward 0 and is
            truncated; its slot has ended like the others.
    """

    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    correct: list[bool | None]
    errors: list[Exception | None]


class TokenGenerationVectorEnv(VectorEnv[Observation, NDArray[np.integer], NDArray[Any]]):
    """``num_envs`` slots, each of which behaves exactly like a :class:`~espo_env.token_env.TokenGenerationEnv`.

    With ``reset(seed=s)`` slot ``i`` is the environment that was reset with seed ``s + i``, as in Gymnasium's
    ``SyncVectorEnv``; a list gives each slot its seed. Options of a reset:

    - ``{"reset_mask": bool (N,)}`` resets these slots and leaves the others alone;
    - ``{"indices": int (N,)}`` poses these problems in the slots that are reset.

    Infos keep Gymnasium's form: an array for each key, and under ``"_key"`` the slots that have it.

    Args:
        task: Poses and grades the problems.
        num_envs: Number of slots ``N``, >= 1.
        max_new_tokens: Horizon of a response, in tokens.
        split: ``"train"`` or ``"eval"``.
        horizon: ``"terminal"`` or ``"truncation"``: what reaching ``max_new_tokens`` is.
        autoreset_mode: ``NEXT_STEP`` (Gymnasium's default): a slot that has ended is reset by the next step, which
            ignores its action. ``SAME_STEP``: it is reset at once, and its end is in ``final_obs`` and ``final_info``.
            ``DISABLED``: the caller resets it. Stated in ``metadata["autoreset_mode"]``.
        render_mode: ``"ansi"``, ``"html"`` or None.
        copy: Whether observations are copies. If False they are views, which the next step changes.

    Raises:
        ValueError: If an argument is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 4}  # noqa: RUF012 (Gymnasium's form)

    def __init__(
        self,
        task: Task,
        num_envs: int,
        *,
        max_new_tokens: int,
        split: Split = "train",
        horizon: Horizon = "terminal",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        copy: bool = True,
    ) -> None:
        self.mdp = TokenMDP(task, max_new_tokens, split, horizon)
        if num_envs < 1:
            raise ValueError(f"expected num_envs >= 1, got {num_envs}")
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"expected render_mode out of {RENDER_MODES} or None, got {render_mode!r}")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.num_envs = num_envs
        self.copy = copy
        self.single_observation_space = self.mdp.observation_space()
        self.single_action_space = self.mdp.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._problems = np.full(num_envs, None, object)
        self._tokens = np.zeros((num_envs, self.mdp.max_length), np.int32)
        self._lengths = np.zeros(num_envs, np.int32)
        self._prompt_lengths = np.zeros(num_envs, np.int32)
        self._running = np.zeros(num_envs, np.bool_)
        # The end of each slot's last episode, for render().
        self._ends: list[dict[str, Any]] = [{} for _ in range(num_envs)]

    @property
    def task(self) -> Task:
        """Poses and grades the problems."""
        return self.mdp.task

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The slots' random number generators."""
        return tuple(self._rng(slot) for slot in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seeds of the slots' random number generators."""
        return tuple(self._seeds)

    @property
    def problems(self) -> list[Problem | None]:
        """The problem posed in each slot, None before the first reset."""
        return list(self._problems)

    @property
    def running(self) -> NDArray[np.bool_]:
        """Shape (N,): whether the slot's episode was started and has not ended."""
        return self._running.copy()

    def prompt_tokens(self, slot: int) -> NDArray[np.int32]:
        """The prompt posed in the slot, shape (P,)."""
        return self._tokens[slot, : self._prompt_lengths[slot]].copy()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Poses new problems, in all slots or in those of ``options["reset_mask"]``.

        Raises:
            IndexError: If the split has no such problem.
            ValueError: If an option has the wrong form, or a prompt is longer than the task's ``max_prompt_tokens``.
        """
        options = check_options(options, ("reset_mask", "indices"))
        mask = self._column(options.get("reset_mask", np.ones(self.num_envs, np.bool_)), "reset_mask", np.bool_)
        indices = self._column(options["indices"], "indices", np.integer) if "indices" in options else None
        if seed is None or isinstance(seed, int | np.integer):
            seeds = [None if seed is None else int(seed) + slot for slot in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"expected one seed for each of {self.num_envs} slots, got {len(seeds)}")
        slots = np.flatnonzero(mask).tolist()
        for slot in slots:
            if seeds[slot] is not None:
                self._rngs[slot], self._seeds[slot] = seeding.np_random(seeds[slot])
        # All problems before any slot: where a task fails, nothing has changed.
        drawn = [self.mdp.draw_index(self._rng(slot)) if indices is None else int(indices[slot]) for slot in slots]
        for slot, posed in zip(slots, [self.mdp.pose(index) for index in drawn], strict=True):
            self._start(slot, *posed)
        return self._observations(), {
            "problem": np.where(mask, self._problems, np.array(None)),
            "_problem": mask.copy(),
        }

    def step(
        self, actions: ArrayLike
    ) -> tuple[Observation, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Writes one token in every slot.

        Args:
            actions: Token ids, shape (N,).

        Raises:
            ResetNeeded: If a slot has no running episode and is not reset by itself.
            ValueError: If an action is not a token of the vocabulary.
            Exception: Whatever the task's grader raises.
        """
        actions = self._column(actions, "actions", np.integer)
        ended = np.flatnonzero(~self._running).tolist()
        if len(ended) and (self.autoreset_mode is not AutoresetMode.NEXT_STEP or None in self._problems[ended]):
            raise ResetNeeded(f"expected reset() before step(): no running episode in slots {ended}")
        rows = np.flatnonzero(self._running)
        tokens = actions[rows]
        outside = (tokens < 0) | (tokens >= self.mdp.vocab_size)
        if outside.any():
            raise ValueError(
                f"expected token ids in [0, {self.mdp.vocab_size}), "
                f"got {tokens[outside].tolist()} in slots {rows[outside].tolist()}"
            )
        for slot in ended:
            self._start_random(slot)
        self._tokens[rows, self._lengths[rows]] = tokens
        self._lengths[rows] += 1
        written = self._lengths[rows] - self._prompt_lengths[rows]
        over = rows[(tokens == self.mdp.eos_token_id) | (written >= self.mdp.max_new_tokens)]

        rewards = np.zeros(self.num_envs)
        terminations = np.zeros(self.num_envs, np.bool_)
        truncations = np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        self._running[over] = False
        for slot in over:
            reason = self.mdp.natural_end(actions[slot], self._lengths[slot] - self._prompt_lengths[slot])
            assert reason is not None
            info = self._end(slot, reason)
            rewards[slot] = self._ends[slot]["reward"]
            terminations[slot], truncations[slot] = self.mdp.flags(reason)
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                final = {"final_obs": self.observation(slot), "final_info": {"problem": self._problems[slot], **info}}
                infos = self._add_info(infos, final, slot)
                self._start_random(slot)
            else:
                infos = self._add_info(infos, info, slot)
        infos |= {"problem": self._problems.copy(), "_problem": np.ones(self.num_envs, np.bool_)}
        return self._observations(), rewards, terminations, truncations, infos

    def complete(
        self,
        slots: ArrayLike,
        responses: Sequence[Sequence[int] | NDArray[np.integer]],
        stop_reasons: Sequence[StopReason],
        fail_reward: float = 0.0,
        grade: bool = True,
    ) -> Completed:
        """Plays whole responses into slots: the same as stepping them token by token, and much faster.

        A response that was stopped (``REGRET``) is terminal; one that was given up or has failed (``ABORT``, ``ERROR``)
        is truncated. Only ``EOS`` responses are graded. What the task or its grader raises for one response is given
        back in ``errors``: it never costs the batch. So is the complaint about a response that does not fit its stop
        reason.

        Args:
            slots: Slots with running episodes, shape (n,), without repeats.
            responses: For each slot the tokens from here to the end, shape (T_i,), end-of-sequence token included.
            stop_reasons: Why each of them ended.
            fail_reward: Reward of a stopped response; ``VectorRegretTermination.complete`` gives its own.
            grade: If False, ``EOS`` responses get no verdict and reward 0: the caller grades them (``mdp.submit``).

        Raises:
            ResetNeeded: If a slot has no running episode.
            ValueError: If the arguments differ in length, or a slot is unknown or repeated.
        """
        rows = self._slots(slots)
        if not len(rows) == len(responses) == len(stop_reasons):
            raise ValueError(
                f"expected as many responses and stop reasons as slots, "
                f"got {len(responses)} and {len(stop_reasons)} for {len(rows)}"
            )
        count = len(rows)
        out = Completed(
            np.zeros(count, np.float32), np.zeros(count, np.bool_), np.zeros(count, np.bool_), [None] * count, []
        )
        for row, (slot, response, reason) in enumerate(zip(rows, responses, stop_reasons, strict=True)):
            reason = StopReason(reason)
            self._running[slot] = False
            try:
                self._write(slot, np.asarray(response, np.int32 if len(response) == 0 else None), reason)
                self._end(slot, reason, fail_reward, grade)
                error = None
            except Exception as raised:
                self._ends[slot] = {"stop_reason": StopReason.ERROR}
                reason, error = StopReason.ERROR, raised
            out.rewards[row] = self._ends[slot].get("reward", 0.0)
            out.correct[row] = self._ends[slot].get("correct")
            out.terminations[row], out.truncations[row] = self.mdp.flags(reason)
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                try:
                    self._start_random(slot)
                except Exception as raised:  # the slot stays ended
                    error = error or raised
            out.errors.append(error)
        return out

    def end_episodes(self, slots: ArrayLike, reason: StopReason, reward: float = 0.0) -> None:
        """Ends the episodes of these slots where they are, for a wrapper that has a rule of its own for it.

        The slots are then reset as ``autoreset_mode`` says, but for ``SAME_STEP``: there the wrapper resets them by a
        ``reset_mask``, because it has to look at their last observation first.

        Args:
            slots: Slots with running episodes, shape (n,), without repeats.
            reason: Why they end, for :meth:`render`.
            reward: The reward the wrapper gives for it, for :meth:`render`.

        Raises:
            ResetNeeded: If a slot has no running episode.
            ValueError: If a slot is unknown or repeated.
        """
        for slot in self._slots(slots):
            self._running[slot] = False
            self._ends[slot] = {"stop_reason": reason, "reward": reward}

    def observation(self, slot: int) -> Observation:
        """The observation of one slot."""
        return {"tokens": self._tokens[slot].copy(), "length": self._lengths[slot : slot + 1].copy()}

    def trajectory(self, slot: int) -> Trajectory:
        """The slot's episode as a record; its stop reason is ABORT while it runs."""
        return Trajectory(
            prompt_tokens=self.prompt_tokens(slot),
            response_tokens=self._response(slot),
            problem=self._problems[slot],
            **{"stop_reason": StopReason.ABORT, **self._ends[slot]},
        )

    def render(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Each slot's episode so far: text, or an HTML page, as ``render_mode`` says."""
        if self.render_mode is None:
            return None
        return tuple(
            render(self.render_mode, self.trajectory(slot), self.task.tokenizer, running=bool(self._running[slot]))
            for slot in range(self.num_envs)
        )

    def _rng(self, slot: int) -> np.random.Generator:
        rng = self._rngs[slot]
        if rng is None:
            rng, self._seeds[slot] = seeding.np_random()
            self._rngs[slot] = rng
        return rng

    def _start_random(self, slot: int) -> None:
        self._start(slot, *self.mdp.pose(self.mdp.draw_index(self._rng(slot))))

    def _start(self, slot: int, problem: Problem, prompt: NDArray[np.int32]) -> None:
        self._problems[slot] = problem
        self._tokens[slot] = 0
        self._tokens[slot, : len(prompt)] = prompt
        self._lengths[slot] = self._prompt_lengths[slot] = len(prompt)
        self._ends[slot] = {}
        self._running[slot] = True

    def _write(self, slot: int, response: NDArray[Any], reason: StopReason) -> None:
        start = self._lengths[slot]
        self.mdp.check_response(response, reason, int(start - self._prompt_lengths[slot]))
        self._tokens[slot, start : start + len(response)] = response
        self._lengths[slot] += len(response)

    def _end(self, slot: int, reason: StopReason, fail_reward: float = 0.0, graded: bool = True) -> dict[str, Any]:
        """Grades what there is to grade; gives back the last step's info."""
        info: dict[str, Any] = {"stop_reason": reason}
        reward = fail_reward if reason is StopReason.REGRET else 0.0
        if reason is StopReason.EOS and graded:
            grade = self.mdp.grade(self._problems[slot], self._response(slot))
            info |= {"correct": grade.correct, "grade": grade}
            reward = float(grade.correct)
        self._ends[slot] = {"stop_reason": reason, "reward": reward, "correct": info.get("correct")}
        return info

    def _response(self, slot: int) -> NDArray[np.int32]:
        return self._tokens[slot, self._prompt_lengths[slot] : self._lengths[slot]].copy()

    def _observations(self) -> Observation:
        views = {"tokens": self._tokens, "length": self._lengths[:, None]}
        return {name: view.copy() for name, view in views.items()} if self.copy else views

    def _column(self, values: ArrayLike, name: str, kind: type[np.bool_] | type[np.integer[Any]]) -> NDArray[Any]:
        column = np.asarray(values)
        if column.shape != (self.num_envs,) or not np.issubdtype(column.dtype, kind):
            raise ValueError(
                f"expected {name} of shape ({self.num_envs},) and kind {kind.__name__}, "
                f"got {column.shape} and {column.dtype}"
            )
        return column

    def _slots(self, slots: ArrayLike) -> NDArray[np.integer]:
        rows = np.asarray(slots)
        if rows.size == 0:
            return np.zeros(0, np.int64)
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"expected slots of shape (n,) and kind integer, got {rows.shape} and {rows.dtype}")
        if rows.min() < 0 or rows.max() >= self.num_envs or len(np.unique(rows)) < len(rows):
            raise ValueError(f"expected different slots in [0, {self.num_envs}), got {rows.tolist()}")
        ended = rows[~self._running[rows]]
        if len(ended):
            raise ResetNeeded(f"expected slots with running episodes: none in slots {ended.tolist()}")
        return rows
