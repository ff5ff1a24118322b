"""The command line ``espo``.

- ``espo train``: trains from a configuration file.
- ``espo evaluate``: scores of a model or checkpoint on data sets.
- ``espo sft``: supervised fine-tuning on a task's solutions.
- ``espo grade``: grades a file of responses.
- ``espo play``: a person plays the token environment.
- ``espo report``: table, curves and a page of responses of runs.
- ``espo reproduce``: methods x task families x seeds.

Each command imports what it needs by itself, so that ``espo --help`` need not wait for torch.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from espo_algo.commands.reproduce_command import reproduce

app = typer.Typer(
    help="Early-stopping PPO for reasoning language models.", no_args_is_help=True, pretty_exceptions_enable=False
)
app.command()(reproduce)

ConfigFile = Annotated[Path, typer.Argument(help="YAML or JSON file; its sections are ESPOConfig's methods.")]
Seed = Annotated[int, typer.Option(min=0)]


@app.command()
def train(
    config: ConfigFile,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint in the output folder.")] = False,
    output: Annotated[Path | None, typer.Option(help="Output folder, instead of run.output.")] = None,
) -> None:
    """Trains; writes a log, checkpoints, responses and the trained model."""
    from espo_algo.commands.config_file import load_config
    from espo_algo.commands.run_folder import train as train_in_folder

    with _messages(), _ray():
        settings, run = load_config(config)
        run = run if output is None else replace(run, output=str(output))
        folder = train_in_folder(settings, run, resume)
        shutil.copy(config, folder / f"config{config.suffix}")
    typer.echo(f"done: {folder} (espo report {folder})")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint of a run, or Hugging Face folder or name.")],
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
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="Needs a checkpoint; gives figures with and without stops.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Scores with confidence intervals, by data set and by level."""
    from espo_algo.commands.config_file import load_config
    from espo_algo.commands.load_policy import is_checkpoint, load_policy
    from espo_algo.evaluation.benchmark import DataSet, format_scores, math_data_set, run_benchmark

    with _messages(), _ray(is_checkpoint(model)):
        policy = load_policy(model, None if config is None else load_config(config)[0])
        if early_stopping and policy.early_stopping is None:
            raise ValueError(f"expected a checkpoint of a run with --early-stopping, got the model {model!r}")
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
        results = run_benchmark(
            settings,
            _on_device(policy.model, settings.engine),
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


@app.command()
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

    from espo_algo.commands.config_file import load_config
    from espo_algo.export import save_tokenizer
    from espo_algo.learning.sft import small_model, supervised_fine_tuning
    from espo_algo.rollout.environment import make_vector_env

    with _messages():
        settings, _ = load_config(config)
        mdp = make_vector_env(settings).unwrapped.mdp
        if fresh:
            learner = small_model(mdp.task, max_length=mdp.max_length, seed=seed)
        elif settings.model_name is None:
            raise ValueError(f"{config}: expected language_model.model (or --fresh), got none")
        else:
            learner = AutoModelForCausalLM.from_pretrained(settings.model_name, dtype="float32")
        points = supervised_fine_tuning(
            _on_device(learner, "torch"),
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
    (output / "sft.json").write_text(json.dumps([asdict(p) for p in points], indent=2) + "\n", "utf-8")
    _table(
        ["step", "loss", "accuracy", "greedy accuracy"],
        [[str(p.step), f"{p.loss:.3f}", f"{p.accuracy:.3f}", f"{p.greedy_accuracy:.3f}"] for p in points],
    )
    typer.echo(f"model: {output}")


@app.command()
def grade(
    file: Annotated[Path, typer.Argument(help="JSON Lines (or JSON, Parquet) file of responses.")],
    response: Annotated[str, typer.Option(help="Field of the response.")] = "response",
    reference: Annotated[str, typer.Option(help="Field of the right answer.")] = "reference",
    question: Annotated[
        str | None, typer.Option(help="Field of the question, so that copying it does not pay.")
    ] = None,
    kind: Annotated[Literal["numeric", "symbolic"], typer.Option(help="How answers are compared.")] = "symbolic",
    workers: Annotated[int, typer.Option(min=1, help="Grading processes.")] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON Lines file of the rows with their grades.")] = None,
) -> None:
    """Grades responses, and counts the verdicts by reason."""
    from espo_env.grading import GraderPool
    from espo_env.tasks.math_sources import read_rows

    with _messages():
        rows = []
        for place, row in read_rows(file):
            if missing := [
                name for name in (response, reference, question) if name and not isinstance(row.get(name), str)
            ]:
                raise ValueError(f"{place}: expected a text as {missing[0]!r}, got fields {sorted(row)}")
            rows.append(row)
        if not rows:
            raise ValueError(f"{file}: expected responses, got none")
        with GraderPool(workers) as pool:
            futures = [
                pool.submit(row[response], row[reference], kind, row[question] if question else "") for row in rows
            ]
            grades = [future.result() for future in futures]
    if output is not None:
        lines = (
            json.dumps({**row, "grade": asdict(g)}, ensure_ascii=False) for row, g in zip(rows, grades, strict=True)
        )
        output.write_text("".join(line + "\n" for line in lines), "utf-8")
    counts = Counter(g.reason for g in grades)
    _table(["reason", "responses", "share"], [[r, str(n), f"{n / len(grades):.1%}"] for r, n in counts.most_common()])
    right = sum(g.correct for g in grades)
    typer.echo(f"right: {right} of {len(grades)} ({right / len(grades):.1%})")


@app.command()
def play(
    config: Annotated[Path | None, typer.Option(help="Configuration file with the task.")] = None,
    env: Annotated[str, typer.Option(help="Gymnasium id of the task, without --config.")] = "espo_env/Arithmetic-v0",
    model: Annotated[str | None, typer.Option(help="Gives regrets and values: checkpoint, folder or name.")] = None,
    problem: Annotated[int | None, typer.Option(min=0, help="Index of the problem; else a random one.")] = None,
    beta: Annotated[float | None, typer.Option(help="Tolerance; default: the checkpoint's, or 7.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
) -> None:
    """Plays the token environment; shows regret and threshold of every token."""
    from espo_algo.commands.config_file import load_config
    from espo_algo.commands.load_policy import is_checkpoint, load_policy
    from espo_algo.commands.play import play as play_in_terminal
    from espo_algo.commands.play import playground
    from espo_algo.config import ESPOConfig

    with _messages(), _ray(model is not None and is_checkpoint(model)):
        settings = None if config is None else load_config(config)[0]
        policy = None if model is None else load_policy(model, settings)
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


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of espo train; several are drawn together.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the files; default: the first run's.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each run's table.")] = 12,
) -> None:
    """Prints a table; writes curves and a page of responses."""
    from espo_algo.commands.run_folder import write_report

    with _messages():
        typer.echo(write_report(runs, runs[0] if output is None else output, rows))


@contextmanager
def _messages() -> Iterator[None]:
    """A wrong file or value ends with a message, not with a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, FileExistsError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@contextmanager
def _ray(needed: bool = True) -> Iterator[None]:
    """Ray without its chatter; one that runs already is left alone."""
    import ray

    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    started = needed and not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _next_line() -> str | None:
    """What the person types; None at the end of the input."""
    try:
        return input("> ")
    except EOFError:
        return None


def _on_device(model: Any, engine: str) -> Any:
    """On the GPU, where there is one, unless the engine has it to itself and copies the weights from the CPU."""
    import torch

    from espo_algo.rollout.engines import get_engine

    return model.to("cuda" if torch.cuda.is_available() and not get_engine(engine).owns_gpus else "cpu")


def _table(header: list[str], rows: list[list[str]]) -> None:
    from espo_algo.evaluation.report import format_table

    typer.echo(format_table(header, rows))


if __name__ == "__main__":
    app()
