"""``espo play``: a person plays the token environment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from espo_algo.commands.terminal import Checkpoint, messages, ray_started

__all__ = ["play"]


def play(
    config: Annotated[Path | None, typer.Option(help="Configuration file with the task.")] = None,
    env: Annotated[str, typer.Option(help="Gymnasium id of the task, without --config.")] = "espo_env/Arithmetic-v0",
    model: Annotated[str | None, typer.Option(help="Gives regrets and values: folder or name.")] = None,
    checkpoint: Checkpoint = False,
    problem: Annotated[int | None, typer.Option(min=0, help="Index of the problem; else a random one.")] = None,
    beta: Annotated[float | None, typer.Option(help="Tolerance; default: the model's, or 7.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
) -> None:
    """Plays the token environment; shows regret and threshold of every token."""
    from espo_algo.commands.config_file import load_config
    from espo_algo.commands.load_policy import load_policy
    from espo_algo.commands.play import play as play_in_terminal
    from espo_algo.commands.play import playground
    from espo_algo.config import ESPOConfig

    with messages(), ray_started(checkpoint):
        settings = None if config is None else load_config(config)[0]
        policy = None if model is None else load_policy(model, settings, checkpoint)
        if settings is None:
            settings = ESPOConfig() if policy is None else policy.config
        state = None if policy is None else policy.early_stopping
        state = settings.early_stopping_state if state is None else state
        play_in_terminal(
            playground(settings, env),
            _next_line,
            typer.echo,
            model=None if policy is None else policy.model,
            index=problem,
            seed=seed,
            statistics=state.statistics,
            beta=state.tolerance.beta if beta is None else beta,
            fail_reward=settings.fail_reward,
            **asdict(settings.detector_settings),
        )


def _next_line() -> str | None:
    """What the person types; None at the end of the input."""
    try:
        return input("> ")
    except EOFError:
        return None
