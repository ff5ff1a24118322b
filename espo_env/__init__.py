"""The Gymnasium side of early-stopping PPO: problems, token environments and the failure detector.

Data flow::

    Task ──problem──> TokenGenerationEnv ──observation──> policy
      ^                      ^                              │ token, regret, value
      └──response── grader   └──token── RegretTermination <─┘
                                          FailureDetector: z > threshold?  -> terminated, fail_reward

Between two batches ``EarlyStoppingState`` gives the detector its statistics, tolerance and warm-up flag.

- ``types``: the glossary; :class:`StopReason`, :class:`PolicySignals`, :class:`Trajectory`
- ``token_mdp``, ``token_env``, ``token_vector_env``: the token MDP; :class:`TokenGenerationEnv` and
  :class:`TokenGenerationVectorEnv`
- ``wrappers``: :class:`RegretTermination`, :class:`VectorRegretTermination`, :class:`Adaptation`,
  :class:`RecordTrajectory`
- ``signals``: regret and value of plain actions, from the policies of other libraries
- ``early_stopping``: the failure detector and its state between batches, pure maths
- ``tasks``, ``grading``: tasks that pose problems, and graders of responses
- ``tokenizer``: :class:`Tokenizer`; ``rendering``: text and HTML views of responses
- ``registration``: the Gymnasium ids; ``imports``: objects named as ``"module:name"``

Importing this package registers the ids of :data:`espo_env.registration.TASKS` with Gymnasium. It needs numpy,
gymnasium and tokenizers only; ``types``, ``early_stopping`` and ``grading`` need numpy alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from espo_env.early_stopping import RegretStatistics
    from espo_env.registration import register_envs
    from espo_env.rendering import render_ansi, render_html
    from espo_env.token_env import TokenGenerationEnv
    from espo_env.token_vector_env import Completed, TokenGenerationVectorEnv
    from espo_env.tokenizer import Tokenizer
    from espo_env.types import PolicySignals, StopReason, Trajectory
    from espo_env.wrappers import Adaptation, RecordTrajectory, RegretTermination, VectorRegretTermination

__all__ = [
    "Adaptation",
    "Completed",
    "PolicySignals",
    "RecordTrajectory",
    "RegretStatistics",
    "RegretTermination",
    "StopReason",
    "TokenGenerationEnv",
    "TokenGenerationVectorEnv",
    "Tokenizer",
    "Trajectory",
    "VectorRegretTermination",
    "register_envs",
    "render_ansi",
    "render_html",
]

_PLACES = {
    "Adaptation": "wrappers",
    "Completed": "token_vector_env",
    "PolicySignals": "types",
    "RecordTrajectory": "wrappers",
    "RegretStatistics": "early_stopping",
    "RegretTermination": "wrappers",
    "StopReason": "types",
    "TokenGenerationEnv": "token_env",
    "TokenGenerationVectorEnv": "token_vector_env",
    "Tokenizer": "tokenizer",
    "Trajectory": "types",
    "VectorRegretTermination": "wrappers",
    "register_envs": "registration",
    "render_ansi": "rendering",
    "render_html": "rendering",
}

try:
    from espo_env import registration
except ModuleNotFoundError as error:
    if error.name != "gymnasium":  # a machine that runs engines only need not have it
        raise
else:
    registration.register_envs()


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
