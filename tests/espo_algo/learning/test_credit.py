"""The credit of a stop, against a token MDP of which every response can be written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hand_made import make_episode
from torch import Tensor

from espo_algo.learning.advantages import generalized_advantages
from espo_algo.learning.credit import (
    Credit,
    CreditSettings,
    Responses,
    assign_credit,
    audit_weight,
    overlong_penalties,
)
from espo_algo.learning.losses import clipped_policy_loss, clipped_value_loss
from espo_env.types import StopReason

HORIZON, END = 4, 0
Text = tuple[int, ...]


@dataclass
class TinyMDP:
    """Three tokens, of which 0 ends; four steps; any reward for any response; a policy with a logit for each choice."""

    logits: dict[Text, Tensor]
    rewards: dict[Text, float]

    @classmethod
    def random(cls, seed: int) -> TinyMDP:
        rng = np.random.default_rng(seed)
        texts: list[Text] = [()]
        for text in texts:
            if not cls.is_over(text):
                texts += [(*text, token) for token in range(3)]
        logits = {t: torch.tensor(rng.normal(size=3), requires_grad=True) for t in texts if not cls.is_over(t)}
        return cls(logits, {t: float(rng.random() < 0.4) for t in texts if cls.is_over(t)})

    @staticmethod
    def is_over(text: Text) -> bool:
        return len(text) == HORIZON or END in text

    @staticmethod
    def mark(text: Text) -> int:
        """The detector fires at the first 2 that is not the last token."""
        return next((t for t, token in enumerate(text[:-1]) if token == 2), -1)

    def logprobs(self, text: Text) -> Tensor:
        return torch.stack([torch.log_softmax(self.logits[text[:t]], -1)[token] for t, token in enumerate(text)])

    def probability(self, text: Text) -> Tensor:
        return self.logprobs(text).sum().exp()

    def gradient(self, objective: Tensor) -> Tensor:
        return torch.cat(torch.autograd.grad(objective, [*self.logits.values()], allow_unused=False))

    @property
    def true_gradient(self) -> Tensor:
        """Of the expected reward without stops."""
        return self.gradient(sum(self.probability(text) * reward for text, reward in self.rewards.items()))

    def exact_values(self) -> dict[Text, float]:
        """V of the policy in every state."""

        def value(text: Text) -> float:
            if self.is_over(text):
                return self.rewards[text]
            chances = torch.softmax(self.logits[text].detach(), -1).tolist()
            return sum(p * value((*text, token)) for token, p in enumerate(chances))

        return {text: value(text) for text in self.logits}


@dataclass
class Outcome:
    """A response that can come about, with its probability."""

    text: Text
    probability: float
    stopped: bool
    reward: float


def outcomes(mdp: TinyMDP, audit_fraction: float, stop_reward: float = 0.0) -> list[Outcome]:
    """All of them, by response and by the draw of an audit."""
    found = []
    for text, reward in mdp.rewards.items():
        chance, mark = float(mdp.probability(text).detach()), mdp.mark(text)
        if mark < 0:
            found.append(Outcome(text, chance, False, reward))
            continue
        found.append(Outcome(text[: mark + 1], chance * (1 - audit_fraction), True, stop_reward))
        found.append(Outcome(text, chance * audit_fraction, False, reward))
    return found


def credit_of(mdp: TinyMDP, found: list[Outcome], values: dict[Text, float], settings: CreditSettings) -> Credit:
    responses = Responses(
        [np.array([values[o.text[:t]] for t in range(len(o.text))], np.float32) for o in found],
        np.array([values.get(o.text, 0.0) for o in found], np.float32),
        rewards=np.array([o.reward for o in found], np.float32),
        groups=np.arange(len(found)),
        marks=np.array([len(o.text) - 1 if o.stopped else mdp.mark(o.text) for o in found]),
        stopped=np.array([o.stopped for o in found]),
        truncated=np.zeros(len(found), np.bool_),
    )
    return assign_credit(responses, generalized_advantages, settings, audit_weight(settings, 0, 0))


def response_gradients(mdp: TinyMDP, found: list[Outcome], credit: Credit) -> Tensor:
    """What each outcome adds to the gradient of the objective, by PPO's own loss: shape (outcomes, parameters)."""
    gradients = []
    for outcome, advantages, weights in zip(found, credit.advantages, credit.policy_weights, strict=True):
        logprobs = mdp.logprobs(outcome.text)
        loss, _ = clipped_policy_loss(logprobs, logprobs.detach(), torch.from_numpy(advantages).double(), 0.2)
        whole = -(loss * torch.from_numpy(weights)).sum() + 0.0 * sum(p.sum() for p in mdp.logits.values())
        gradients.append(mdp.gradient(whole))
    return torch.stack(gradients)


def expectation(found: list[Outcome], numbers: Tensor) -> Tensor:
    return torch.tensor([o.probability for o in found], dtype=torch.float64) @ numbers


def random_values(mdp: TinyMDP) -> dict[Text, float]:
    rng = np.random.default_rng(7)
    return {text: float(rng.normal()) for text in mdp.logits}


def no_values(mdp: TinyMDP) -> dict[Text, float]:
    return dict.fromkeys(mdp.logits, 0.0)


@pytest.mark.parametrize("values", [no_values, random_values, TinyMDP.exact_values])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_audited_stops_leave_the_expected_gradient_alone(
    fraction: float, values: Callable[[TinyMDP], dict[Text, float]]
) -> None:
    mdp = TinyMDP.random(0)
    settings = CreditSettings(stop_credit="audited", audit_fraction=fraction)
    found = outcomes(mdp, fraction)
    assert sum(o.probability for o in found) == pytest.approx(1.0)
    assert 0.1 < sum(o.probability for o in found if mdp.mark(o.text) >= 0 or o.stopped) < 0.9
    credit = credit_of(mdp, found, values(mdp), settings)
    got = expectation(found, response_gradients(mdp, found, credit))
    torch.testing.assert_close(got, mdp.true_gradient, rtol=1e-5, atol=1e-6)
    # Moments that do not depend on the batch are a baseline and a step size.
    white = response_gradients(mdp, found, credit.whitened(0.3, 4.0))
    torch.testing.assert_close(expectation(found, white), mdp.true_gradient / 2, rtol=1e-5, atol=1e-6)


def test_without_the_weights_it_would_be_another_gradient() -> None:
    mdp = TinyMDP.random(0)
    found = outcomes(mdp, 0.5)
    for settings in (CreditSettings(stop_credit="bootstrap"), CreditSettings(stop_credit="reward")):
        credit = credit_of(mdp, found, random_values(mdp), settings)
        got = expectation(found, response_gradients(mdp, found, credit))
        assert (got - mdp.true_gradient).abs().max() > 0.01


def test_fewer_audits_cost_variance_and_a_good_critic_saves_some() -> None:
    mdp = TinyMDP.random(0)
    variances = {}
    for name, values in (("none", no_values(mdp)), ("exact", mdp.exact_values())):
        for fraction in (0.1, 0.25, 0.5, 1.0):
            found = outcomes(mdp, fraction)
            credit = credit_of(mdp, found, values, CreditSettings(stop_credit="audited", audit_fraction=fraction))
            gradients = response_gradients(mdp, found, credit)
            spread = (gradients - mdp.true_gradient).square().sum(1, keepdim=True)
            variances[name, fraction] = float(expectation(found, spread))
            weighted, unweighted = credit.squares()
            assert (weighted > unweighted) is (fraction < 1.0)
    for name in ("none", "exact"):
        ordered = [variances[name, fraction] for fraction in (0.1, 0.25, 0.5, 1.0)]
        assert ordered == sorted(ordered, reverse=True)
        assert ordered[0] > 2 * ordered[-1]
    assert all(variances["exact", f] < variances["none", f] for f in (0.1, 0.25, 0.5, 1.0))
    # Nothing is stopped: the variance of training without stops.
    plain = [Outcome(t, float(mdp.probability(t).detach()), False, r) for t, r in mdp.rewards.items()]
    gradients = response_gradients(mdp, plain, credit_of(mdp, plain, no_values(mdp), CreditSettings()))
    spread = (gradients - mdp.true_gradient).square().sum(1, keepdim=True)
    assert variances["none", 1.0] == pytest.approx(float(expectation(plain, spread)), rel=1e-5)


def test_the_critics_loss_is_that_of_full_responses_in_the_mean() -> None:
    mdp = TinyMDP.random(3)
    values = random_values(mdp)

    def expected_gradient(found: list[Outcome], settings: CreditSettings) -> Tensor:
        """Of the critic's loss in every state, a table of values."""
        credit = credit_of(mdp, found, values, settings)
        table = {text: torch.tensor(value, dtype=torch.float64, requires_grad=True) for text, value in values.items()}
        loss = torch.zeros((), dtype=torch.float64)
        for o, targets, weights in zip(found, credit.targets, credit.critic_weights, strict=True):
            predicted = torch.stack([table[o.text[:t]] for t in range(len(o.text))])
            errors = clipped_value_loss(predicted, torch.from_numpy(targets).double(), float("inf"))
            loss = loss + o.probability * (errors * torch.from_numpy(weights)).sum()
            assert ((targets >= 0) & (targets <= 1)).all() or o.stopped
        return torch.stack(torch.autograd.grad(loss, [*table.values()]))

    full = [Outcome(t, float(mdp.probability(t).detach()), False, r) for t, r in mdp.rewards.items()]
    audited = CreditSettings(stop_credit="audited", audit_fraction=0.2)
    torch.testing.assert_close(
        expected_gradient(outcomes(mdp, 0.2), audited), expected_gradient(full, CreditSettings()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_a_bootstrapped_stop_is_right_where_the_critic_is(lambda_: float) -> None:
    mdp = TinyMDP.random(1)
    found = outcomes(mdp, 0.0)
    settings = CreditSettings(stop_credit="bootstrap", lambda_=lambda_)
    credit = credit_of(mdp, found, mdp.exact_values(), settings)
    got = expectation(found, response_gradients(mdp, found, credit))
    # Only the choices before a mark are seen at all.
    seen = torch.cat([torch.full((3,), float(2 not in text)) for text in mdp.logits])
    torch.testing.assert_close(got, mdp.true_gradient * seen, rtol=1e-5, atol=1e-6)
    wrong = credit_of(mdp, found, random_values(mdp), settings)
    assert (expectation(found, response_gradients(mdp, found, wrong)) - mdp.true_gradient * seen).abs().max() > 0.01


@pytest.mark.parametrize("fail_reward", [-1.0, 0.0])
def test_a_rewarded_stop_is_the_gradient_of_the_mdp_with_stops(fail_reward: float) -> None:
    mdp = TinyMDP.random(2)
    found = outcomes(mdp, 0.0, fail_reward)
    credit = credit_of(mdp, found, random_values(mdp), CreditSettings())
    objective = sum(
        mdp.probability(text) * (reward if mdp.mark(text) < 0 else fail_reward) for text, reward in mdp.rewards.items()
    )
    got = expectation(found, response_gradients(mdp, found, credit))
    torch.testing.assert_close(got, mdp.gradient(objective), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop_weight", [0.0, 0.3, 1.0])
def test_the_weight_of_a_stop_multiplies_its_share_of_the_gradient_alone(stop_weight: float) -> None:
    mdp = TinyMDP.random(2)
    found = outcomes(mdp, 0.5, stop_reward=-1.0)
    whole = response_gradients(mdp, found, credit_of(mdp, found, random_values(mdp), CreditSettings()))
    settings = CreditSettings(stop_weight=stop_weight)
    credit = credit_of(mdp, found, random_values(mdp), settings)
    got = response_gradients(mdp, found, credit)
    assert settings.weighted is (stop_weight != 1.0)
    weights = torch.tensor([stop_weight if o.stopped else 1.0 for o in found])
    torch.testing.assert_close(expectation(found, got), expectation(found, whole * weights[:, None]))
    # Whoever judges the critic, or whitens the advantages, sees every response once.
    assert all((w == 1).all() for w in [*credit.critic_weights, *credit.outcome_weights])
    assert credit.advantages is credit.unweighted_advantages


# --- by hand --------------------------------------------------------------------------------------------------------


def batch() -> Responses:
    """Marked at its second token and right after 4; stopped at its second; never marked and wrong after 2."""
    episodes = [
        make_episode([1, 2, 1, 0], reward=1.0, mark=1),
        make_episode([1, 2], StopReason.REGRET, reward=0.0, mark=1),
        make_episode([1, 0], reward=0.0),
    ]
    values = [np.full(len(e), 0.25, np.float32) for e in episodes]
    return Responses.from_episodes(episodes, values, np.array([9.0, 0.5, 9.0], np.float32))


def test_weights_by_hand() -> None:
    settings = CreditSettings(stop_credit="audited", audit_fraction=0.5)
    credit = assign_credit(batch(), generalized_advantages, settings, weight=2.0)
    # 0.25 behind the mark, and twice what is behind it: 1 - 0.25.
    assert [a.tolist() for a in credit.advantages] == [[1.5, 1.5, 0.75, 0.75], [0.25, 0.25], [-0.25, -0.25]]
    assert [a.tolist() for a in credit.unweighted_advantages] == [[0.75] * 4, [0.25, 0.25], [-0.25, -0.25]]
    assert [w.tolist() for w in credit.policy_weights] == [[1, 1, 2, 2], [1, 1], [1, 1]]
    assert [w.tolist() for w in credit.critic_weights] == [[2, 2, 2, 2], [0, 0], [1, 1]]
    assert [w.tolist() for w in credit.outcome_weights] == [[2, 2, 2, 2], [0, 0], [1, 1]]
    assert [t.tolist() for t in credit.targets] == [[1] * 4, [0.5, 0.5], [0, 0]]
    lighter = replace(settings, stop_weight=0.3)  # audits weigh by themselves
    again = assign_credit(batch(), generalized_advantages, lighter, weight=2.0)
    assert [w.tolist() for w in again.policy_weights] == [[1, 1, 2, 2], [1, 1], [1, 1]]
    squares = 2 * 1.5**2 + 2 * (2 * 0.75) ** 2 + 4 * 0.25**2, 4 * 0.75**2 + 4 * 0.25**2
    assert credit.squares() == pytest.approx(squares)


@pytest.mark.parametrize(("stop_credit", "behind", "known"), [("reward", 0.0, 1), ("bootstrap", 0.5, 0)])
def test_without_audits_every_token_counts_once(stop_credit: str, behind: float, known: int) -> None:
    credit = assign_credit(batch(), generalized_advantages, CreditSettings(stop_credit=stop_credit))
    assert credit.advantages is credit.unweighted_advantages
    assert credit.targets[1].tolist() == [behind, behind]
    assert all((w == 1).all() for w in [*credit.policy_weights, *credit.critic_weights])
    # The critic is not judged by its own word.
    assert [w.tolist() for w in credit.outcome_weights] == [[1] * 4, [known] * 2, [1] * 2]


def test_the_critic_has_a_trace_decay_of_its_own() -> None:
    """One response, values 0.5 and 0.25, reward 1: TD errors -0.25 and 0.75."""
    episode = make_episode([1, 0], reward=1.0)
    responses = Responses.from_episodes([episode], [np.array([0.5, 0.25], np.float32)], np.zeros(1, np.float32))
    for critic_lambda, targets in ((1.0, [1.0, 1.0]), (0.0, [0.25, 1.0])):
        settings = CreditSettings(lambda_=0.5, critic_lambda=critic_lambda)
        credit = assign_credit(responses, generalized_advantages, settings)
        assert credit.advantages[0].tolist() == [-0.25 + 0.5 * 0.75, 0.75]
        assert credit.targets[0].tolist() == targets


def test_weights_of_an_audit() -> None:
    audited = {"stop_credit": "audited", "audit_fraction": 0.25}
    assert audit_weight(CreditSettings(**audited), 10, 4) == 4.0
    normalised = CreditSettings(**audited, audit_weighting="self_normalized")
    # The weights of the audited sum to the number of the marked.
    assert audit_weight(normalised, 10, 4) == 2.5
    assert audit_weight(normalised, 10, 0) == 1.0
    assert audit_weight(CreditSettings(audit_fraction=0.25), 10, 4) == 1.0


def test_long_responses_lose_reward_token_by_token() -> None:
    lengths = np.array([1, 6, 7, 8, 10])
    np.testing.assert_allclose(overlong_penalties(lengths, 10, 4, 0.5), [0, 0, 0.125, 0.25, 0.5])
    assert not overlong_penalties(lengths, 10, 0, 0.5).any()
    settings = CreditSettings(horizon=4, overlong_buffer=2, overlong_penalty=1.0)
    credit = assign_credit(batch(), generalized_advantages, settings)
    # Of 4, 2 and 2 tokens, rewards 1, 0 and 0.
    assert [float(t[-1]) for t in credit.targets] == [0.0, 0.0, 0.0]
