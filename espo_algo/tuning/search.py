"""A search with Ray Tune over a configuration with ranges.

- :func:`search`: runs the trials, as many at once as there is room for, each in a folder of its own.
- :data:`STATE`: Ray Tune's folder in a search's.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher

from espo_algo.atomic import write_text
from espo_algo.commands.config_file import parse_file
from espo_algo.commands.interruption import Interruption
from espo_algo.commands.run_settings import differences
from espo_algo.lock import lock
from espo_algo.tuning.fit import fit
from espo_algo.tuning.placement import trial_resources, trials_at_once
from espo_algo.tuning.search_file import Search, SearchOptions
from espo_algo.tuning.trial import run_trial
from espo_algo.tuning.trials import SEARCH, TRIALS, short_names, shown

__all__ = ["STATE", "search"]

STATE = "tune"
_HARMLESS = re.compile(r"run\.output")


def search(
    what: Search,
    *,
    interruption: Interruption | None = None,
    resume: bool = False,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Runs the trials; Ray is running.

    Args:
        what: The search.
        interruption: A signal that it notes ends the search so that it can go on.
        resume: Go on with the search in the output folder, if there is one.
        workers: Trials at once; None for as many as there is room for.
        say: Takes a line for each trial that ends.

    Returns:
        What failed; a call with ``resume`` tries these again.

    Raises:
        FileExistsError: If there is a search in the output folder already, and ``resume`` is False.
        BlockingIOError: If another process searches in it.
        ValueError: If a trial does not fit on the cluster, or a search would go on with something else than before.
    """
    output = Path(what.run().output).resolve()
    config = what.check()
    room = trials_at_once(config)
    with lock(output / "lock"):
        started = (output / TRIALS).is_dir()
        if started and not resume:
            raise FileExistsError(
                f"expected an output folder without a search (or --resume), got one in {str(output)!r}"
            )
        if started:
            _check_same(what, output)
        trainable = tune.with_resources(
            tune.with_parameters(run_trial, search=what, output=output, working_folder=Path.cwd()),
            lambda values: trial_resources(what.config(values)),
        )
        if started:
            tuner = tune.Tuner.restore(str(output / STATE), trainable, resume_unfinished=True, restart_errored=True)
        else:
            write_text(output / SEARCH, yaml.safe_dump(what.settings(), sort_keys=False))
            (output / TRIALS).mkdir()
            tuner = _tuner(what, trainable, output, min(room, workers or room), say)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is said in a line, and once
        warnings.filterwarnings("ignore", "The reported value is ignored", module="optuna")  # of a trial that goes on
        # Tune's new output prints a box however silent it is to be.
        results = fit(tuner, interruption, RAY_AIR_NEW_OUTPUT="0")
    return [f"{Path(result.path).name}: {_last_line(result.error)}" for result in results if result.error is not None]


def _tuner(what: Search, trainable: Any, output: Path, workers: int, say: Callable[[str], None]) -> tune.Tuner:
    options = what.options
    return tune.Tuner(
        trainable,
        param_space={found.name: found.domain() for found in what.ranges},
        tune_config=tune.TuneConfig(
            metric=options.metric,
            mode=options.mode,
            num_samples=options.samples,
            max_concurrent_trials=None if options.searcher == "random" else workers,  # that one is told itself
            search_alg=_searcher(options, workers),
            scheduler=_scheduler(what),
            reuse_actors=True,  # the next trial does not import everything again
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=STATE, storage_path=str(output), callbacks=[_Progress(options.metric, say)], verbose=0
        ),
    )


def _searcher(options: SearchOptions, workers: int) -> Searcher | SearchAlgorithm:
    if options.searcher == "random":
        return BasicVariantGenerator(random_state=options.seed, max_concurrent=workers)
    try:
        import optuna
    except ImportError as error:
        raise ImportError("expected optuna to be installed: pip install 'espo[tune]'") from error
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(seed=options.seed)


def _scheduler(what: Search) -> TrialScheduler | None:
    options = what.options
    if options.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr="iteration",
        max_t=what.run().iterations + 1,  # a trial that comes to its end ends by itself, and exports its model
        grace_period=options.grace,
        reduction_factor=options.reduction_factor,
    )


def _check_same(what: Search, output: Path) -> None:
    if changed := differences(parse_file(output / SEARCH), what.settings(), _HARMLESS):
        raise ValueError(f"expected what {str(output)!r} was searched with so far, got {'; '.join(changed)}")
    if not tune.Tuner.can_restore(str(output / STATE)):
        raise ValueError(
            f"expected Ray Tune's state in {str(output / STATE)!r}, got none: the search was ended before it was first "
            "saved; delete the folder to start it again"
        )


def _last_line(error: Exception) -> str:
    """Without the tracebacks that Ray puts before it."""
    return str(error).strip().splitlines()[-1]


def _name(trial: Any) -> str:
    number, _, _ = trial.experiment_tag.partition("_")
    return f"trial-{int(number):03d}"


class _Progress(tune.Callback):
    """A line for each trial that ends."""

    def __init__(self, metric: str, say: Callable[[str], None]) -> None:
        self.metric, self.say = metric, say

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last, values = trial.last_result, trial.config.values()
        drawn = ", ".join(f"{n}={shown(v)}" for n, v in zip(short_names([*trial.config]), values, strict=True))
        self.say(
            f"{trial}: {self.metric} {last[self.metric]:.3f} after {last['iteration']:.0f} iterations, "
            f"{last['tokens'] / 1e3:.1f}k tokens ({drawn})"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.say(f"{trial}: failed, see {trial.error_file}")
