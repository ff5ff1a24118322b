"""Directions of an update: against plain loops, by hand, and on an untrained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from coin_fixtures import coin_config, coin_model  # noqa: F401 (fixtures)
from hand_made import make_episode

from espo_algo import ESPOConfig, LanguageModelWithCritic
from espo_algo.experiments.gradients import (
    Directions,
    coefficients,
    gradients,
    leave_one_out,
    measure_directions,
    stopped,
)
from espo_algo.learning.credit import CreditSettings
from espo_algo.policy import Policy
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, RegretStatistics, ToleranceController
from espo_env.types import StopReason

RNG = np.random.default_rng(0)


def made_up(noise: float = 0.3, groups: int = 400) -> Directions:
    """Gradients of 30 parameters: those of "stopped" lean away from the objective by 60 degrees, "PPO" does not."""
    goal, aside = np.eye(30)[:2]
    means = {"PPO": goal, "dropped": goal, "stopped": 0.5 * goal + np.sqrt(0.75) * aside, "1.0": 3.0 * goal}
    found = {name: mean + noise * RNG.normal(size=(groups, 30)) for name, mean in means.items()}
    return Directions(
        {(a, b): found[a] @ found[b].T for a in found for b in found},
        {"PPO": 1.0, "stopped": 0.8, "dropped": 0.8},
        responses=4,
    )


def test_cosines_are_those_of_the_expected_gradients_whatever_the_noise() -> None:
    d = made_up()
    assert d.cosine("PPO", "1.0") == pytest.approx(1.0, abs=0.01)
    assert d.cosine("stopped", "1.0") == pytest.approx(0.5, abs=0.03)
    # Half of it: 0.75 and 0.433 of the two directions.
    assert d.weighted(0.5).cosine("weighted", "1.0") == pytest.approx(0.75 / np.hypot(0.75, 0.433), abs=0.05)
    assert d.weighted(0.5).tokens["weighted"] == 0.8


def test_progress_is_what_is_left_of_a_step_under_noise() -> None:
    d = made_up()
    # A group of 4 responses has noise of squared length 2.7 around a mean of length 1.
    assert d.progress("PPO", "1.0", batch=4) == pytest.approx(1 / np.sqrt(1 + 2.7), abs=0.02)
    assert d.progress("PPO", "1.0", batch=40) == pytest.approx(1 / np.sqrt(1 + 0.27), abs=0.02)
    assert d.progress("PPO", "1.0", batch=10**9) == pytest.approx(d.cosine("PPO", "1.0"), rel=1e-4)
    gain, error = d.gain("stopped", "PPO", "1.0", batch=40)
    assert gain == pytest.approx(-0.5, abs=0.04)
    assert 0.001 < error < 0.1
    assert d.gain("PPO", "PPO", "1.0", batch=40) == (0.0, 0.0)


def test_a_jackknife_leaves_groups_out_as_if_they_had_never_been() -> None:
    d = made_up(groups=6)
    fewer = replace(d, products={names: np.delete(np.delete(p, 2, 0), 2, 1) for names, p in d.products.items()})
    assert d.without(2).cosine("stopped", "1.0") == pytest.approx(fewer.cosine("stopped", "1.0"))
    assert d.without(2).progress("stopped", "1.0", 40) == pytest.approx(fewer.progress("stopped", "1.0", 40))


def test_a_weight_is_that_of_the_learners_credit() -> None:
    """By linearity, and by asking again with ``stop_weight``."""
    full = [
        make_episode([1, 2, 3, 0], reward=1.0, values=[0.5, 0.4, 0.3, 0.6], mark=1),
        make_episode([1, 0], values=[0.5, 0.2]),
        make_episode([2, 3, 1], StopReason.LENGTH, values=[0.5, 0.1, 0.2], mark=2),  # its last step: no stop
    ]
    short = [stopped(episode) for episode in full]
    assert [len(e) for e in short] == [2, 2, 3]
    assert [e.stop_reason for e in short] == [StopReason.REGRET, StopReason.EOS, StopReason.LENGTH]
    assert [e.mark for e in short] == [1, -1, -1]
    assert [e.reward for e in short] == [0.0, 0.0, 0.0]
    whole = coefficients(short, CreditSettings())
    # Of seven tokens, lambda 1: advantages are minus the values.
    raw = -np.array([0.5, 0.4, 0.5, 0.2, 0.5, 0.1, 0.2])
    np.testing.assert_allclose(np.concatenate(whole), (raw - raw.mean()) / raw.std() / 7, rtol=1e-5)
    lighter = coefficients(short, CreditSettings(stop_weight=0.3))
    for index, factor in enumerate((0.3, 1.0, 1.0)):
        np.testing.assert_allclose(lighter[index], factor * whole[index], rtol=1e-5)


def test_the_baseline_is_the_mean_of_the_other_responses_to_the_prompt() -> None:
    episodes = [
        make_episode([1] * n, reward=r) for n, r in ((1, 1.0), (2, 0.0), (1, 1.0), (1, 0.0), (3, 0.0), (1, 0.0))
    ]
    got = [float(column[0]) for column in leave_one_out(episodes, rollouts_per_prompt=3)]
    np.testing.assert_allclose(got, np.array([0.5, -1.0, 0.5, 0.0, 0.0, 0.0]) / 6)


@pytest.fixture(scope="module")
def policy(coin_config: Callable[..., ESPOConfig]) -> Policy:
    """An untrained one, of which the random rule marks every second response or so."""
    config = coin_config().early_stopping(rule="random", beta=1.5)
    state = EarlyStoppingState(RegretStatistics(0.0, 1.0), ToleranceController(beta=1.5), CriticWarmup(done=True))
    return Policy(config, LanguageModelWithCritic.from_pretrained(config.model_name, "separate", vocab_size=11), state)


def test_gradients_are_those_of_a_plain_loop(policy: Policy) -> None:
    episodes = [make_episode(RNG.integers(1, 10, n), prompt=RNG.integers(1, 10, n % 3 + 1)) for n in (5, 2, 4, 3)]
    treatments = [[RNG.normal(size=len(e)).astype(np.float32) for e in episodes] for _ in range(2)]
    treatments[1][0] = treatments[1][0][:2]  # it was stopped there
    got = gradients(policy.model, episodes, treatments, groups=2, temperature=0.5)
    model = policy.model.policy
    for t, columns in enumerate(treatments):
        for group in range(2):
            loss = torch.zeros(())
            for i in (2 * group, 2 * group + 1):
                tokens = torch.from_numpy(
                    np.concatenate([episodes[i].prompt_tokens, episodes[i].response_tokens])
                ).long()
                logits = model(tokens[None]).logits[0, :, :11] / 0.5
                for step, weight in enumerate(columns[i]):
                    place = len(episodes[i].prompt_tokens) + step
                    loss = loss + 2 * float(weight) * torch.log_softmax(logits[place - 1], -1)[tokens[place]]
            expected = torch.autograd.grad(loss, [*model.parameters()])
            np.testing.assert_allclose(
                got[t, group], torch.cat([g.ravel() for g in expected]).numpy(), rtol=1e-3, atol=1e-5
            )


def test_measured_on_a_model(policy: Policy) -> None:
    d = measure_directions(
        policy.config,
        policy,
        num_problems=16,
        rollouts_per_prompt=4,
        groups=4,
        temperatures=(1.0, 0.5),
        problem_seed=None,
    )
    assert d.responses == 16
    assert d.tokens["PPO"] == 1.0
    assert 0.2 < d.tokens["stopped"] == d.tokens["dropped"] < 0.9
    for (a, b), product in d.products.items():
        assert product.shape == (4, 4)
        np.testing.assert_allclose(product, d.products[b, a].T, rtol=1e-6)
    # What is dropped has no gradient, and stops have one.
    assert np.trace(d.products["dropped", "dropped"]) != pytest.approx(
        np.trace(d.products["stopped", "stopped"]), rel=0.05
    )
    # The same responses and nearly the same advantages: plain PPO and the objective at T = 1.
    assert d.products["PPO", "1.0"].diagonal().min() > 0
