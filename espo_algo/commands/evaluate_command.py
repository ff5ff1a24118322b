"""``espo evaluate``: scores of a model or checkpoint on data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from espo_algo.commands.terminal import Checkpoint, Seed, check_output, messages, on_device, ray_started

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[str, typer.Argument(help="Hugging Face folder or name, or the model folder of a run.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="FILE, PRESET=FILE or PRESET (see espo_env.tasks.math_presets); else the config's own task."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file: task, engine, horizon, sampling.")] = None,
    output: Annotated[
        Path, typer.Option(help="Folder of results and responses; a run that ended early goes on.")
    ] = Path("runs/evaluation"),
    problems: Annotated[int | None, typer.Option(min=1, help="The first so many of each data set.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses to each problem.")] = 1,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option()] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest tokens.")] = False,
    template: Annotated[str | None, typer.Option(help="Prompt template, such as chat or boxed.")] = None,
    max_prompt_tokens: Annotated[int, typer.Option(min=1, help="Longer problems are left out.")] = 1024,
    slots: Annotated[int | None, typer.Option(min=1, help="Responses written at the same time.")] = None,
    engine: Annotated[str | None, typer.Option(help="torch, vllm, or module:NAME of your own.")] = None,
    checkpoint: Checkpoint = False,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="Needs a run's model; gives figures with and without stops.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Scores with confidence intervals, by data set and by level."""
    from espo_algo.commands.config_file import load_config
    from espo_algo.commands.load_policy import load_policy
    from espo_algo.evaluation.benchmark import DataSet, format_scores, math_data_set, run_benchmark
    from espo_algo.lock import lock

    with messages(), ray_started(checkpoint):
        check_output(output)
        policy = load_policy(model, None if config is None else load_config(config)[0], checkpoint)
        if early_stopping and policy.early_stopping is None:
            raise ValueError(f"expected the model folder of a run with --early-stopping, got the model {model!r}")
        given: dict[str, Any] = {
            "engine": engine,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "greedy": greedy or None,
        }
        settings = policy.config.generation(**{name: value for name, value in given.items() if value is not None})
        settings.env_runners(num_envs_per_env_runner=slots or settings.num_envs_per_env_runner)
        own_tokenizer = str(policy.config.model_name)
        data_sets = [math_data_set(name, own_tokenizer, template, max_prompt_tokens) for name in data or []]
        if not data_sets:
            if settings.env is None:
                raise ValueError("expected --data or --config with an environment, got neither")
            data_sets = [DataSet("eval", settings.env, settings.env_config)]
        with lock(output / "lock"):
            results = run_benchmark(
                settings,
                on_device(policy.model, settings.engine),
                policy.early_stopping if early_stopping else None,
                data_sets,
                output,
                num_problems=problems,
                num_samples=samples,
                seed=seed,
                source=policy.source,
            )
    typer.echo(format_scores(results))
    typer.echo(f"results: {output / 'results.json'}")
