"""What a trial reports: the numbers that matter, flat, under readable names.

- :func:`readable`: from what ``ESPO.train()`` gave back. :func:`read_row`: from a row of Tune's tables.
- :func:`with_evaluations`: the newest evaluation beside every iteration.
- :data:`NAMES`: all names. :data:`EVALUATION`: those that evaluation measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["EVALUATION", "NAMES", "read_row", "readable", "with_evaluations"]

_PLACES = {
    "iteration": "training_iteration",
    "tokens": "env_runners/num_env_steps_sampled_lifetime",
    "accuracy": "env_runners/accuracy",
    "return": "env_runners/episode_return_mean",
    "response_length": "env_runners/response_length/mean",
    "stop_rate": "env_runners/early_stopping/stop_rate",
    "stop_position": "env_runners/early_stopping/mean_stop_position",
    "wrong_stops": "env_runners/early_stopping/false_positive_rate",
    "tokens_saved": "env_runners/early_stopping/tokens_saved_estimate",
    "beta": "beta",
    "warmup_done": "warmup_done",
    "policy_loss": "learners/default_policy/policy_loss",
    "value_loss": "learners/default_policy/vf_loss",
    "explained_variance": "learners/default_policy/vf_explained_var",
    "entropy": "learners/default_policy/entropy",
    "kl": "learners/default_policy/mean_kl_loss",
    "clip_fraction": "learners/default_policy/clip_fraction",
    "gradient_norm": "learners/default_policy/grad_norm",
    "mismatch_kl": "mismatch/kl",
    "sampling_s": "timers/env_runner_sampling_timer",
    "update_s": "timers/learner_update_timer",
    "eval_accuracy": "evaluation/env_runners/accuracy",
    "eval_response_length": "evaluation/env_runners/response_length/mean",
    "eval_stop_rate": "evaluation/env_runners/early_stopping/stop_rate",
    "eval_wrong_stops": "evaluation/env_runners/early_stopping/false_positive_rate",
}
NAMES = tuple(_PLACES)
EVALUATION = tuple(name for name in NAMES if name.startswith("eval_"))


def readable(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one iteration, NaN where nothing was measured.

    Args:
        result: What ``ESPO.train()`` gave back. ``wrong_stops`` is the share of marked responses that ran on and were
            right; ``tokens_saved`` an estimate for this batch; the others are RLlib's.
    """
    return read_row(_flat(result))


def read_row(row: Mapping[str, Any]) -> dict[str, float]:
    """The same from a row of a table whose columns are paths (``env_runners/accuracy``), or these names themselves."""
    return {name: float(row.get(place, row.get(name, math.nan))) for name, place in _PLACES.items()}


def with_evaluations(results: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each iteration's result with the newest evaluation until then, which is not made in every iteration."""
    evaluation: Any = {}
    for result in results:
        evaluation = result.get("evaluation") or evaluation
        yield {**result, "evaluation": evaluation}


def _flat(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in result.items():
        if not isinstance(value, Mapping):
            flat[f"{prefix}{name}"] = value
        elif name != "config":
            flat |= _flat(value, f"{prefix}{name}/")
    return flat
