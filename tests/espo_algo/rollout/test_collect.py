from __future__ import annotations

import copy
import math
import time
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from tiny_models import tiny_qwen2
from transformers import AutoModelForCausalLM

from espo_algo import LanguageModelWithCritic, TokenEpisode
from espo_algo.rollout.collect import collect, stream
from espo_algo.rollout.embedded.engine import TorchEngine
from espo_algo.rollout.engine import EngineSettings
from espo_algo.rollout.plans import Planner, ResponsePlan
from espo_env.early_stopping import DetectorSettings, DetectorState, RegretStatistics
from espo_env.grading import Grade
from espo_env.grading.background import default_background
from espo_env.grading.judge import InvalidGrade
from espo_env.tasks import Problem, Split, Task
from espo_env.token_vector_env import TokenGenerationVectorEnv
from espo_env.tokenizer import Tokenizer
from espo_env.types import StopReason
from espo_env.wrappers import VectorRegretTermination

HORIZON = 6
PROBLEMS = 40


class FragileTask(Task):
    """Right is a response with an ``a``. Some problems cannot be posed, some not be graded."""

    def __init__(self, unposable: tuple[int, ...] = (), ungradable: tuple[int, ...] = ()) -> None:
        super().__init__(Tokenizer.from_symbols("abc"))
        self.unposable, self.ungradable = unposable, ungradable

    def num_problems(self, split: Split) -> int:
        return PROBLEMS

    @property
    def max_prompt_tokens(self) -> int:
        return 3

    def problem(self, index: int, split: Split = "train") -> Problem:
        if index in self.unposable:
            raise LookupError(f"problem {index} is gone")
        return Problem("abc"[: 1 + index % 3], "a", index=index)

    def grade(self, problem: Problem, response: str) -> Grade:
        if problem.index in self.ungradable:
            raise ArithmeticError(f"problem {problem.index} breaks its grader")
        return Grade("a" in response, response, "looked for a")


class WatchedEngine(TorchEngine):
    """Writes down how many slots were in use at each step."""

    def step(self) -> list[TokenEpisode]:
        episodes = super().step()
        self.live = [*getattr(self, "live", []), self.num_live]
        return episodes


@pytest.fixture(scope="module")
def model() -> LanguageModelWithCritic:
    torch.manual_seed(0)
    config = tiny_qwen2(
        4,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    return LanguageModelWithCritic(AutoModelForCausalLM.from_config(config).eval())


def build(
    model: LanguageModelWithCritic, task: Task, slots: int, rule: str = "regret_value"
) -> tuple[WatchedEngine, VectorRegretTermination]:
    env = TokenGenerationVectorEnv(
        task, slots, max_new_tokens=HORIZON, autoreset_mode=AutoresetMode.DISABLED, split="train"
    )
    mdp, detector = env.mdp, DetectorSettings(rule)
    settings = EngineSettings(slots, max_length=mdp.max_length, eos_token_id=mdp.eos_token_id, detector=detector)
    engine = WatchedEngine(model, settings)
    engine.set_detector_state(DetectorState(enabled=False))
    return engine, VectorRegretTermination(env, fail_reward=-0.5)


def plans(indices: list[int], **options: bool) -> list[ResponsePlan]:
    return [ResponsePlan(index, seed=1000 + place, **options) for place, index in enumerate(indices)]


INDICES = [*range(PROBLEMS)][::-1]


def test_plans_are_answered_in_their_order_with_every_slot_in_use(model: LanguageModelWithCritic) -> None:
    engine, env = build(model, FragileTask(), slots=5)
    episodes = collect(engine, env, plans(INDICES))
    assert [e.problem.index for e in episodes] == INDICES
    assert [e.seed for e in episodes] == [p.seed for p in plans(INDICES)]
    for episode in episodes:
        np.testing.assert_array_equal(episode.prompt_tokens, env.unwrapped.task.encode_prompt(episode.problem))
    # A slot that became free was filled before the next step, as long as something waited.
    tokens = sum(map(len, episodes))
    assert max(engine.live) == 5
    assert len(engine.live) < tokens / 4
    assert engine.num_unfinished == 0


def test_responses_are_graded_by_what_they_say(model: LanguageModelWithCritic) -> None:
    engine, env = build(model, FragileTask(), slots=8)
    episodes = collect(engine, env, plans(INDICES))
    assert {e.stop_reason for e in episodes} == {StopReason.EOS, StopReason.LENGTH}
    for episode in episodes:
        if episode.stop_reason is StopReason.EOS:
            assert episode.correct is (1 in episode.response_tokens)
            assert episode.reward == float(episode.correct)
        else:
            assert (episode.correct, episode.reward, len(episode)) == (None, 0.0, HORIZON)
        assert episode.terminated


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_the_number_of_slots_changes_nothing(model: LanguageModelWithCritic, slots: int) -> None:
    expected = collect(*build(model, FragileTask(), slots=7), plans(INDICES))
    for left, right in zip(expected, collect(*build(model, FragileTask(), slots), plans(INDICES)), strict=True):
        np.testing.assert_array_equal(left.response_tokens, right.response_tokens)
        assert (left.reward, left.stop_reason) == (right.reward, right.stop_reason)


@pytest.mark.parametrize("slots", [1, 4, 64])
def test_what_the_task_raises_loses_its_own_response_alone(model: LanguageModelWithCritic, slots: int) -> None:
    unposable, ungradable = (0, 1, 2, 17, 38, 39), (5, 6, 7, 8, 9, 30, 31, 32)
    whole = collect(*build(model, FragileTask(), slots), plans(INDICES))
    engine, env = build(model, FragileTask(unposable, ungradable), slots)
    episodes = collect(engine, env, plans(INDICES))
    assert len(episodes) == PROBLEMS
    broken_grades = 0
    for index, episode, sound in zip(INDICES, episodes, whole, strict=True):
        if index in unposable:
            assert (episode.stop_reason, episode.error, len(episode)) == (StopReason.ERROR, "LookupError", 0)
            continue
        np.testing.assert_array_equal(episode.response_tokens, sound.response_tokens)
        # Only what ended by itself is graded.
        if index in ungradable and sound.stop_reason is StopReason.EOS:
            broken_grades += 1
            assert (episode.stop_reason, episode.error) == (StopReason.ERROR, "ArithmeticError")
            assert (episode.reward, episode.correct, episode.is_trainable) == (0.0, None, False)
        else:
            assert (episode.stop_reason, episode.error) == (sound.stop_reason, "")
            assert (episode.reward, episode.correct) == (sound.reward, sound.correct)
    assert broken_grades > 0
    # Every slot is free again: as many more plans as there are slots all run at once.
    engine.live.clear()
    again = collect(engine, env, plans([3] * slots))
    assert all(e.error == "" for e in again)
    assert engine.live[0] == slots


def test_where_no_problem_can_be_posed_every_plan_is_accounted_for(model: LanguageModelWithCritic) -> None:
    episodes = collect(*build(model, FragileTask(tuple(INDICES)), slots=4), plans(INDICES))
    assert [e.error for e in episodes] == ["LookupError"] * PROBLEMS
    assert collect(*build(model, FragileTask(), slots=4), []) == []


def test_stops_get_the_fail_reward_and_marks_run_on(model: LanguageModelWithCritic) -> None:
    engine, env = build(model, FragileTask(), slots=4)
    # Everything is above average, so whatever goes on is stopped at once.
    engine.set_detector_state(DetectorState(RegretStatistics(mean=-9.0, var=0.01), beta=0.1, enabled=True))
    stopped = collect(engine, env, plans(INDICES))
    marked = collect(engine, env, plans(INDICES, mark_only=True))
    assert {e.stop_reason for e in stopped} == {StopReason.EOS, StopReason.REGRET}
    for stop, mark in zip(stopped, marked, strict=True):
        assert mark.stop_reason is not StopReason.REGRET
        if stop.stop_reason is StopReason.REGRET:
            assert (stop.reward, stop.correct, stop.mark, len(stop)) == (-0.5, None, 0, 1)
            assert mark.mark == 0
            assert len(mark) > 1
            np.testing.assert_array_equal(mark.response_tokens[:1], stop.response_tokens)
        else:
            # It ended on the very step: never stopped, never marked.
            assert (len(stop), stop.mark, mark.mark) == (1, -1, -1)


def test_an_engine_that_fails_is_idle_afterwards(
    model: LanguageModelWithCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, env = build(model, FragileTask(), slots=4)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_forward", lambda: torch.linalg.inv(torch.zeros(2, 2)))
        with pytest.raises(torch.linalg.LinAlgError):
            collect(engine, env, plans(INDICES))
    assert engine.num_unfinished == 0
    assert len(collect(engine, env, plans(INDICES))) == PROBLEMS


def test_pilots_come_first_and_tell_the_rule_of_the_others(model: LanguageModelWithCritic) -> None:
    task = FragileTask(ungradable=(3,))
    engine, env = build(model, task, slots=6, rule="regret_siblings")
    # Everything is above average, so whatever may be stopped is stopped at once.
    engine.set_detector_state(DetectorState(RegretStatistics(mean=-9.0, var=0.01), beta=0.1, enabled=True))
    planned = Planner(lambda i: i, seed=1, rollouts_per_prompt=4, pilots=2).plans(range(48))
    numbers, episodes = zip(*stream(engine, env, planned), strict=True)
    assert sorted(numbers) == list(range(48))
    by_number = dict(zip(numbers, episodes, strict=True))
    rates = set()
    for group in range(12):
        pilots, others = ([by_number[4 * group + i] for i in pair] for pair in ((0, 1), (2, 3)))
        assert max(numbers.index(e.request_id) for e in pilots) < min(numbers.index(e.request_id) for e in others)
        assert all(e.shadow and e.stop_reason is not StopReason.REGRET for e in pilots)
        graded = [e.correct is True for e in pilots if e.is_trainable]
        for other in others:
            assert other.prompt_success == (sum(graded) / len(graded) if graded else 1.0)
            assert not other.shadow
            if other.prompt_success < 0.5:
                assert other.mark == -1
            elif len(other) > 1 or other.stop_reason is StopReason.REGRET:
                assert (other.stop_reason, other.mark) == (StopReason.REGRET, 0)
            rates.add(other.prompt_success)
    assert {0.0, 1.0} <= rates
    # Six slots, of which none is idle while there is something to write.
    assert engine.live[: len(engine.live) // 2] == [6] * (len(engine.live) // 2)


class SlowTask(FragileTask):
    """Grades when nothing is unfinished any more; writes down how much is unfinished then."""

    def __init__(self, *broken: tuple[int, ...]) -> None:
        super().__init__(*broken)
        self.engine: WatchedEngine
        self.unfinished: list[int] = []

    def submit(self, problem: Problem, response: str) -> Future[Grade]:
        def grade() -> Grade:
            while self.engine.num_unfinished:
                time.sleep(0.001)
            self.unfinished.append(self.engine.num_unfinished)
            return self.grade(problem, response)

        return default_background().submit(grade, 30.0)


def test_decoding_does_not_wait_for_grades(model: LanguageModelWithCritic) -> None:
    broken = ((0, 1), (5, 6, 7, 8, 9, 30, 31, 32))
    task = SlowTask(*broken)
    engine, env = build(model, task, slots=3)
    task.engine = engine
    episodes = collect(engine, env, plans(INDICES))
    expected = collect(*build(model, FragileTask(*broken), slots=3), plans(INDICES))
    for late, soon in zip(episodes, expected, strict=True):
        np.testing.assert_array_equal(late.response_tokens, soon.response_tokens)
        assert (late.correct, late.reward, late.error, late.grade) == (
            soon.correct,
            soon.reward,
            soon.error,
            soon.grade,
        )
    assert len(task.unfinished) > 5
    assert set(task.unfinished) == {0}


def test_responses_come_as_they_finish_and_leaving_early_leaves_the_engine_idle(model: LanguageModelWithCritic) -> None:
    engine, env = build(model, FragileTask(), slots=3)
    running = stream(engine, env, plans(INDICES))
    for _ in range(5):
        number, episode = next(running)
        assert episode.problem.index == INDICES[number]
        assert (episode.correct is not None) is (episode.stop_reason is StopReason.EOS)
    assert engine.num_unfinished > 0
    running.close()
    assert engine.num_unfinished == 0


class CarelessTask(FragileTask):
    """Its grader gives back what it was told for the answer to a problem."""

    def __init__(self, verdicts: dict[int, object]) -> None:
        super().__init__()
        self.verdicts = verdicts

    def grade(self, problem: Problem, response: str) -> Grade:
        verdict = self.verdicts.get(problem.index, True)
        return Grade(verdict, response, "careless") if problem.index != 7 else verdict  # type: ignore[arg-type]


def test_a_grade_that_is_no_number_in_0_1_loses_its_own_response(model: LanguageModelWithCritic) -> None:
    """One NaN in twenty spread over every batch when advantages were whitened."""
    wrong = {0: math.nan, 1: math.inf, 2: -1, 3: 2.0, 4: "1", 5: None, 6: 10**400, 7: None, 8: 1j, 9: [1.0]}
    right = {10: 1, 11: 0.0, 12: np.bool_(True), 13: np.float32(0.25), 14: 0.5}
    engine, env = build(model, CarelessTask(wrong | right), slots=4)
    episodes = collect(engine, env, plans(INDICES))
    graded = 0
    for index, episode in zip(INDICES, episodes, strict=True):
        if episode.stop_reason is StopReason.LENGTH:
            continue
        graded += 1
        if index in wrong:
            assert (episode.stop_reason, episode.error, episode.reward) == (StopReason.ERROR, "InvalidGrade", 0.0)
            assert "expected a" in episode.message
            assert not episode.is_trainable
        else:
            assert episode.error == ""
            assert episode.reward == float(right.get(index, True))
            assert (episode.correct is True) is (episode.reward == 1.0)  # what metrics ask for
            assert (episode.correct is False) is (episode.reward == 0.0)
    assert graded > 20
    with pytest.raises(InvalidGrade, match="expected a grade in"):
        env.unwrapped.mdp.grade(Problem("a", "a", index=0), np.array([1, 0], np.int32))


def test_a_grader_that_hangs_loses_its_response_and_nothing_else_waits(model: LanguageModelWithCritic) -> None:
    class SleepyTask(FragileTask):
        grade_timeout_s = 0.5

        def grade(self, problem: Problem, response: str) -> Grade:
            if problem.index == 20:
                time.sleep(120)
            return super().grade(problem, response)

    whole = collect(*build(model, FragileTask(), slots=4), plans(INDICES))
    sleeps = INDICES.index(20)
    assert whole[sleeps].stop_reason is StopReason.EOS
    start = time.monotonic()
    episodes = collect(*build(model, SleepyTask(), slots=4), plans(INDICES))
    assert time.monotonic() - start < 60
    assert (episodes[sleeps].error, episodes[sleeps].correct) == ("TimeoutError", None)
    assert "expected a grade within 0.5 s" in episodes[sleeps].message
    del episodes[sleeps], whole[sleeps]
    assert [(e.reward, e.error) for e in episodes] == [(e.reward, "") for e in whole]


def test_a_submit_of_ones_own_that_never_answers_is_not_waited_for(
    model: LanguageModelWithCritic, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DeafTask(FragileTask):
        grade_timeout_s = 0.2

        def submit(self, problem: Problem, response: str) -> Future[Grade]:
            return Future() if problem.index % 2 else super().submit(problem, response)

    monkeypatch.setattr("espo_algo.rollout.collect._PATIENCE", 0.0)
    episodes = collect(*build(model, DeafTask(), slots=4), plans(INDICES))
    lost = {e.problem.index for e in episodes if e.error == "TimeoutError"}
    assert lost == {e.problem.index for e in episodes if e.problem.index % 2 and e.stop_reason is not StopReason.LENGTH}
    assert lost


@pytest.mark.parametrize("part", ["value_head", "lm_head"])
def test_numbers_that_are_not_finite_lose_the_response_at_once(model: LanguageModelWithCritic, part: str) -> None:
    engine, env = build(copy.deepcopy(model), FragileTask(), slots=4)
    for name, parameter in engine._model.named_parameters():
        if part in name:
            with torch.no_grad():
                parameter[0] = torch.nan
    episodes = collect(engine, env, plans(INDICES))
    assert {(e.stop_reason, e.error, len(e)) for e in episodes} == {(StopReason.ERROR, "FloatingPointError", 1)}
    assert {e.message for e in episodes} == {
        f"expected finite {'values' if part == 'value_head' else 'logprobs'}, got nan at token 0 of a response"
    }
