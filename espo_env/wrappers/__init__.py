"""Gymnasium wrappers.

- :class:`RegretTermination`: the failure detector around one environment
- :class:`VectorRegretTermination`: the same around a vector environment
- :class:`Adaptation`: moves the statistics and tolerance of both from batch to batch
- :class:`RecordTrajectory`: keeps the records of finished episodes
"""

from espo_env.wrappers.adaptation import Adaptation
from espo_env.wrappers.record_trajectory import RecordTrajectory
from espo_env.wrappers.regret_termination import RegretTermination
from espo_env.wrappers.vector_regret_termination import VectorRegretTermination

__all__ = ["Adaptation", "RecordTrajectory", "RegretTermination", "VectorRegretTermination"]
