"""The task families of the small experiments side by side: ``python -m espo_algo.experiments.families``.

- :func:`families_table`: accuracy of each start, lengths of its responses, and what stopping could save at best.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from espo_algo.evaluation.report import format_table
from espo_algo.evaluation.tails import failure_tails
from espo_algo.experiments.comparison import measure_start
from espo_algo.experiments.config import OUTPUT, build_config
from espo_algo.experiments.settings import SETTINGS

__all__ = ["families_table"]

_SMALL = [name for name, setting in SETTINGS.items() if not setting.pretrained]


def families_table(
    names: Sequence[str],
    output: str | Path,
    num_problems: int,
    sft_steps: int | None = None,
    start_seed: int | None = None,
) -> str:
    """A row for each task family, measured on the policy that training starts from.

    Args:
        names: Out of :data:`espo_algo.experiments.settings.SETTINGS`.
        output: Folder in which the starts are; those that are missing are made.
        num_problems: Evaluation problems, each answered once sampled and once greedily.
        sft_steps: Updates of the supervised fine-tuning, at most; None for each task's own number.
        start_seed: Of the starts; None for those that runs of all seeds share.
    """
    header = ["task", "sampled", "greedy", "tokens if right", "if wrong", "first error at", "oracle's saving", "half"]
    rows = []
    for name in names:
        config = build_config(task=name, output=output, sft_steps=sft_steps, start_seed=start_seed)
        run = measure_start(config, num_problems)
        tails = failure_tails(config.check_task().task, run.sampled.episodes)
        lengths = (tails.right_length, tails.failed_length, tails.first_error)
        savings = (tails.oracle_saving, tails.half_saving)
        rows.append(
            [
                name,
                *(f"{evaluation.accuracy:.3f}" for evaluation in (run.sampled, run.greedy)),
                *(f"{length:.1f}" for length in lengths),
                *(f"{saving:.1%}" for saving in savings),
            ]
        )
    return format_table(header, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Accuracy of each start, and what stopping could save at best.")
    parser.add_argument("names", nargs="*", default=[*_SMALL], metavar="task", help="default: all small ones")
    parser.add_argument("--problems", type=int, default=2048, help="evaluation problems (default: 2048)")
    parser.add_argument("--output", type=Path, default=Path(OUTPUT), help=f"folder of the starts (default: {OUTPUT})")
    parser.add_argument("--sft-steps", type=int, help="supervised updates at most (default: each task's own number)")
    parser.add_argument("--start-seed", type=int, help="of the starts (default: those that all seeds share)")
    options = parser.parse_args()
    print(families_table(options.names, options.output, options.problems, options.sft_steps, options.start_seed))
