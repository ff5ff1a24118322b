"""One trial of a search: a run in a folder of its own, as ``espo train`` leaves it.

- :func:`run_trial`: trains, and reports each iteration to Ray Tune.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ray import tune
from transformers.utils.logging import disable_progress_bar

from espo_algo.atomic import write_text
from espo_algo.commands.checkpoints import choose_checkpoint, iteration_of
from espo_algo.commands.config_file import build_config
from espo_algo.commands.run_folder import train
from espo_algo.commands.run_log import RunLog
from espo_algo.tuning.metrics import readable, with_evaluations
from espo_algo.tuning.search_file import Search
from espo_algo.tuning.trials import TRIALS, VALUES

__all__ = ["run_trial"]


def run_trial(values: dict[str, Any], search: Search, output: Path, working_folder: Path) -> None:
    """Trains with values in the place of the ranges; Tune calls this in a process of its own.

    A trial that starts again goes on from its newest whole checkpoint, and reports what it did before once more: Tune's
    own record may be older than that.

    Args:
        values: Name of a range -> its value.
        search: What is searched.
        output: The search's folder.
        working_folder: What relative paths in the file begin at.
    """
    os.chdir(working_folder)
    disable_progress_bar()
    trial = tune.get_context()
    folder = output / TRIALS / trial.get_trial_name()
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    content = search.filled(values, folder)
    write_text(folder / VALUES, json.dumps(values, indent=1) + "\n")
    write_text(file := Path(trial.get_trial_dir()) / "config.yaml", yaml.safe_dump(content, sort_keys=False))
    config, run = build_config(content)
    checkpoint = choose_checkpoint(folder, skip_broken=True)
    done = 0 if checkpoint is None else iteration_of(checkpoint)
    before = [result for result in RunLog(folder).results() if result["training_iteration"] <= done] if done else []
    results = [*with_evaluations(before)]
    for result in results:
        tune.report(readable(result))

    def report(result: Mapping[str, Any]) -> None:
        results[:] = with_evaluations([*results[-1:], result])
        tune.report(readable(results[-1]))

    train(config, run, file=file, resume=True, progress=False, report=report)
