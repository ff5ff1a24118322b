"""The models that experiments start from.

- :func:`make_start`: made by supervised fine-tuning, or taken where it is there already.
- :func:`num_heads`: how many attention heads they have, by engine.
- :func:`slips`: demonstrations with mistakes.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from transformers import AutoModelForCausalLM, PreTrainedModel

from espo_algo.atomic import write_text
from espo_algo.experiments.pretrained import make_model_folder
from espo_algo.experiments.settings import Setting, get_setting, measure_task, with_tokenizer
from espo_algo.learning.sft import Demonstrate, SFTPoint, save_model, small_model, supervised_fine_tuning
from espo_algo.lock import lock
from espo_env.tasks import CycleTask, Task

__all__ = ["make_start", "num_heads", "slips"]

logger = logging.getLogger(__name__)

_NUM_HEADS = 4
_SEED_OFFSET = 10_000  # a run meets its problems in another order than the start that has its seed
_RECORD = "sft.json"


def num_heads(engine: str) -> int:
    """Attention heads of the small transformer: fewer for vLLM, whose attention on a CPU needs a head size of 32."""
    return 2 if engine == "vllm" else _NUM_HEADS


def make_start(
    name: str, output: str | Path, sft_steps: int | None = None, heads: int = _NUM_HEADS, seed: int | None = None
) -> Path:
    """Makes a task's start, or takes the one that is there with the same setting; gives its folder.

    Args:
        name: Of the task.
        output: Folder in which the start gets a folder of its own.
        sft_steps: Updates of its fine-tuning, at most; None for the task's own number.
        heads: Attention heads of a small transformer.
        seed: Of fresh weights and of the order of problems; None for the start that runs of all seeds share.

    Raises:
        BlockingIOError: If another process is making it.
    """
    setting = get_setting(name)
    if sft_steps is not None:
        setting = replace(setting, steps=sft_steps, slip_steps=min(setting.slip_steps, sft_steps))
    suffix = ("" if heads == _NUM_HEADS else f"-{heads}-heads") + ("" if seed is None else f"-seed-{seed}")
    sft_seed = 0 if seed is None else _SEED_OFFSET + seed
    folder = Path(output) / f"start-{name.replace(':', '-')}{suffix}"
    if _is_made(folder, setting):
        return folder
    with lock(folder.with_name(f"{folder.name}.lock")):
        if _is_made(folder, setting):  # by now
            return folder
        pretrained = make_model_folder(Path(output) / "smollm2") if setting.pretrained else None
        horizon, task = measure_task(with_tokenizer(setting, pretrained) if pretrained else setting)
        context = task.max_prompt_tokens + horizon
        if pretrained:
            model = AutoModelForCausalLM.from_pretrained(pretrained)
        elif setting.first:
            model = AutoModelForCausalLM.from_pretrained(make_start(setting.first, output, sft_steps, heads, seed))
            model.config.max_position_embeddings = context  # positions are rotary, so that any number will do
        else:
            model = small_model(task, max_length=context, num_heads=heads, seed=sft_seed)
        points = _fine_tune(model, setting, task, horizon, sft_seed)
        if folder.exists():
            shutil.rmtree(folder)
        save_model(model, task, folder)
        # Last, so that a folder that was left half-way is not taken.
        record = {"setting": asdict(setting), "points": [asdict(p) for p in points]}
        write_text(folder / _RECORD, json.dumps(record, indent=2) + "\n")
    return folder


def _is_made(folder: Path, setting: Setting) -> bool:
    record = folder / _RECORD
    wanted = json.loads(json.dumps(asdict(setting)))  # as it comes back from a file
    return record.is_file() and json.loads(record.read_text("utf-8"))["setting"] == wanted


def _fine_tune(model: PreTrainedModel, setting: Setting, task: Task, horizon: int, seed: int) -> list[SFTPoint]:
    points = supervised_fine_tuning(
        model,
        task,
        max_new_tokens=horizon,
        steps=setting.steps,
        lr=setting.lr,
        batch_size=setting.batch_size,
        until=setting.accuracy,
        evaluate_every=setting.evaluate_every,
        num_problems=setting.num_problems,
        seed=seed,
    )
    if points[-1].accuracy < setting.accuracy:
        logger.warning(
            "%s: expected a start with a sampled accuracy of %.2f, got %.2f after %d updates",
            *(setting.env, setting.accuracy, points[-1].accuracy, setting.steps),
        )
    if setting.slip_steps and isinstance(task, CycleTask):
        points += supervised_fine_tuning(
            model,
            task,
            max_new_tokens=horizon,
            steps=setting.slip_steps,
            lr=setting.lr / 10,
            demonstrate=slips(task, setting.slip_rate, horizon),
            evaluate_every=setting.slip_steps,
            seed=seed,
        )
    return points


def slips(task: CycleTask, rate: float, max_new_tokens: int) -> Demonstrate:
    """Demonstrations with a wrong step now and then, after which they walk on: they teach a model to ramble."""
    return lambda problem, rng: task.slipped_demonstration(problem, rng, rate, max_new_tokens)
