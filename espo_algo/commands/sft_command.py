"""``espo sft``: supervised fine-tuning on a task's solutions."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from espo_algo.atomic import write_text
from espo_algo.commands.terminal import ConfigFile, Seed, check_output, messages, on_device, print_table

__all__ = ["sft"]


def sft(
    config: ConfigFile,
    output: Annotated[Path, typer.Option(help="Folder of the fine-tuned model.")],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="A small transformer with fresh weights, not the model.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Updates, at most.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    lr: Annotated[float | None, typer.Option(help="Default: 3e-3 with --fresh, else 2e-5.")] = None,
    until: Annotated[float | None, typer.Option(help="Stop at this accuracy on evaluation problems.")] = None,
    evaluate_every: Annotated[int, typer.Option(min=1)] = 10,
    problems: Annotated[int, typer.Option(min=1, help="Evaluation problems.")] = 64,
    seed: Seed = 0,
) -> None:
    """Raises a model above zero reward by fine-tuning on its task's reference solutions."""
    from transformers import AutoModelForCausalLM

    from espo_algo.checks import check_model
    from espo_algo.commands.config_file import load_config
    from espo_algo.export import save_tokenizer
    from espo_algo.learning.sft import small_model, supervised_fine_tuning
    from espo_algo.rollout.environment import make_vector_env

    with messages():
        check_output(output)
        settings, _ = load_config(config)
        mdp = make_vector_env(settings).unwrapped.mdp
        if fresh:
            learner = small_model(mdp.task, max_length=mdp.max_length, seed=seed)
        elif settings.model_name is None:
            raise ValueError(f"{config}: expected language_model.model (or --fresh), got none")
        else:
            check_model(settings)
            learner = AutoModelForCausalLM.from_pretrained(settings.model_name, dtype="float32")
        points = supervised_fine_tuning(
            on_device(learner, "torch"),
            mdp.task,
            max_new_tokens=mdp.max_new_tokens,
            steps=steps,
            batch_size=batch_size,
            lr=lr or (3e-3 if fresh else 2e-5),
            until=until,
            evaluate_every=evaluate_every,
            num_problems=problems,
            seed=seed,
        )
        learner.save_pretrained(output)
        save_tokenizer(None if fresh else settings.model_name, mdp.task, output)
    write_text(output / "sft.json", json.dumps([asdict(p) for p in points], indent=2) + "\n")
    print_table(
        ["step", "loss", "accuracy", "greedy accuracy"],
        [[str(p.step), f"{p.loss:.3f}", f"{p.accuracy:.3f}", f"{p.greedy_accuracy:.3f}"] for p in points],
    )
    typer.echo(f"model: {output}")
