"""Early-stopping PPO (ESPO, arXiv 2605.29860) for language models, on RLlib's new API stack.

::

    Task -> prompt ids -> env slot -> engine: a token for every live slot, with (logprob, regret, value)
         -> FailureDetector -> stop? -> slot freed, next prompt admitted -> grader -> TokenEpisode
         -> Learner: GAE on whole sequences -> clipped loss -> weights + (mean, var, beta, warm-up) -> engine

- :class:`ESPOConfig`, :class:`ESPO`: the algorithm; ``tune.Tuner("ESPO", ...)`` knows it once this is imported.
- :class:`TokenEpisode`: one response, as it flows from engine to learner.
- :class:`LanguageModelWithCritic`: any Hugging Face causal LM with a critic.
"""

from ray import tune

import espo_env  # noqa: F401 (registers the environments)
from espo_algo.config import ESPOConfig
from espo_algo.episodes import TokenEpisode
from espo_algo.espo import ESPO
from espo_algo.learning.model import LanguageModelWithCritic

__all__ = ["ESPO", "ESPOConfig", "LanguageModelWithCritic", "TokenEpisode"]

tune.register_trainable("ESPO", ESPO)
