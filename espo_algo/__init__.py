"""Early-stopping PPO (ESPO, arXiv 2605.29860) for language models, on RLlib's new API stack.

One iteration, ``ESPO.training_step`` in ``espo.py``::

    Planner (rollout/plans.py): problems and seeds
      -> Task (espo_env/tasks) poses them in the slots of the environment (rollout/environment.py, collect.py)
      -> engine (rollout/embedded, rollout/vllm): a token for every live slot, with logprob, regret and value
      -> FailureDetector, decide (espo_env/early_stopping): stopped? then the slot takes the next prompt
      -> grader (espo_env/grading) -> TokenEpisode (episodes.py)
      -> Learner (learning/learner.py): advantages on whole responses, clipped loss
      -> EarlyStoppingState (espo_env/early_stopping/state.py): mean, var, beta, warm-up for the next batch
      -> weight sync (weight_sync): weights and that state, to every runner (rollout/env_runner.py)

Public names:

- :class:`ESPOConfig`, :class:`ESPO`: the algorithm; making a configuration registers it with Tune as ``"ESPO"``.
- :class:`TokenEpisode`: the record of one response, as the engine gives it to the learner.
- :class:`LanguageModelWithCritic`: any Hugging Face causal LM with a critic.

Folders: ``learning`` (the update), ``rollout`` (engines and runners), ``weight_sync``, ``evaluation``, ``commands``
(the command line), ``experiments`` (what the quickstart is made of), ``tuning`` (Ray Tune), ``schema`` (types and
ranges of settings). ``checks.py`` and ``combinations.py`` check a configuration, ``stock.py`` puts the detector under
RLlib's own algorithms.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from espo_algo.config import ESPOConfig
    from espo_algo.episodes import TokenEpisode
    from espo_algo.espo import ESPO
    from espo_algo.learning.model import LanguageModelWithCritic

__all__ = ["ESPO", "ESPOConfig", "LanguageModelWithCritic", "TokenEpisode"]

_PLACES = {
    "ESPO": "espo_algo.espo",
    "ESPOConfig": "espo_algo.config",
    "LanguageModelWithCritic": "espo_algo.learning.model",
    "TokenEpisode": "espo_algo.episodes",
}


def __getattr__(name: str) -> Any:
    # Imported when they are asked for: the command line reports a typo, or its version, before torch and ray are here.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
