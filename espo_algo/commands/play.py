"""A person plays the token environment.

- :func:`play`: one response, a line of text at a time; shows what the failure detector makes of every token.
- :func:`playground`: the environment of a configuration.
- :func:`model_signals`: regret and value of typed tokens, as a model sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from espo_algo.config import ESPOConfig
from espo_algo.evaluation.report import format_table
from espo_algo.learning.model import LanguageModelWithCritic
from espo_algo.rollout.environment import make_vector_env
from espo_env.early_stopping import step_regret
from espo_env.escapes import visible
from espo_env.token_env import TokenGenerationEnv
from espo_env.token_mdp import TokenMDP
from espo_env.types import PolicySignals, Trajectory
from espo_env.wrappers import RegretTermination
from espo_env.wrappers.signals import SignalsFunction

__all__ = ["HELP", "model_signals", "play", "playground"]

HELP = (
    "Type what the policy should write; \\n is a line break. An empty line ends the response, /quit gives it up.\n"
    "Without a model /regret 2.5 and /value 0.3 say what the tokens after them cost and what the critic thinks."
)


def play(
    env: TokenGenerationEnv,
    read: Callable[[], str | None],
    write: Callable[[str], None],
    *,
    model: LanguageModelWithCritic | None = None,
    index: int | None = None,
    seed: int | None = None,
    **detector: Any,
) -> Trajectory:
    """Plays one response.

    Args:
        env: With ``render_mode="ansi"``.
        read: Gives the next line, None at the end of the input, which gives the response up.
        write: Shows text.
        model: Gives regrets and values; without one they are what the person says, 0 to start with.
        index: The problem; None for a random one.
        seed: Of the random problem, and of the ``random`` rule.
        **detector: Keyword arguments of :class:`~espo_env.wrappers.RegretTermination`.

    Returns:
        The response, with its signals.
    """
    said = {"/regret": 0.0, "/value": 0.0}
    signals = (lambda *_: (said["/regret"], said["/value"])) if model is None else model_signals(model)
    wrapped = RegretTermination(env, signals=signals, **detector)
    _, info = wrapped.reset(seed=seed, options=None if index is None else {"index": index})
    prompt = env.task.tokenizer.decode(wrapped.trajectory().prompt_tokens)
    write(f"{HELP}\n\nproblem {info['problem'].index}\n{visible(prompt)}\n")
    over = False
    while not over and (line := read()) is not None and line.strip() != "/quit":
        command, _, argument = line.strip().partition(" ")
        if command in said and model is None:
            try:
                said[command] = float(argument)
            except ValueError:
                write(f"expected a number after {command}, got {argument!r}")
            continue
        try:
            tokens = env.task.tokenizer.encode(line.replace("\\n", "\n")) if line else [env.task.tokenizer.eos_token_id]
        except ValueError as error:
            write(visible(str(error)))
            continue
        rows = []
        for token in tokens:
            try:
                _, _, terminated, truncated, info = wrapped.step(token)
            except ValueError as error:  # what was said for a regret or value cannot be
                write(visible(str(error)))
                break
            cells = [f"{info[name]:.3g}" for name in ("regret", "value", "z", "threshold")]
            rows.append([repr(env.task.tokenizer.token(token)), *cells])
            if over := terminated or truncated:
                break
        if rows:
            write(format_table(["token", "regret", "value", "z", "threshold"], rows))
    write(wrapped.render())
    return wrapped.trajectory()


def playground(config: ESPOConfig, env_id: str) -> TokenGenerationEnv:
    """The configured environment, or the registered one with its own horizon if none is configured."""
    env: Any = gym.make(env_id) if config.env is None else make_vector_env(config)
    mdp: TokenMDP = env.unwrapped.mdp
    return TokenGenerationEnv(
        mdp.task, max_new_tokens=mdp.max_new_tokens, split=mdp.split, horizon=mdp.horizon, render_mode="ansi"
    )


def model_signals(model: LanguageModelWithCritic, temperature: float = 1.0) -> SignalsFunction:
    """Regret and value of a token in the state before it, by one pass over all that was written.

    Args:
        model: Policy and critic.
        temperature: At which regrets are taken.
    """

    @torch.no_grad()
    def signals(observation: dict[str, np.ndarray], token: int) -> PolicySignals:
        written = torch.as_tensor(observation["tokens"], device=model.policy.device)
        policy, critic = model.last_hidden(written[None], torch.from_numpy(observation["length"]))
        logits = model.project(policy) / temperature
        regret = step_regret(logits, torch.tensor([token], device=logits.device))
        return PolicySignals(token, float(regret[0]), float(model.value(critic)[0]))

    return signals
