"""Tasks: what problems are posed, and how responses are graded.

- :class:`Task`, :class:`Problem`, :data:`Split` (``base.py``): what a task is
- :class:`ArithmeticTask` (``arithmetic.py``): chains of additions and subtractions
- :class:`WalkTask`, :class:`CycleTask` (``walk.py``): the first wrong token is known exactly
- :class:`ReasoningGymTask` (``reasoning_gym.py``): the generators of reasoning-gym
- :class:`MathTask` (``math.py``): GSM8K, MATH, AIME, DAPO and the like, out of files or from the hub
"""

from espo_env.tasks.arithmetic import ArithmeticTask
from espo_env.tasks.base import Problem, Split, Task
from espo_env.tasks.math import MathTask
from espo_env.tasks.reasoning_gym import ReasoningGymTask
from espo_env.tasks.walk import CycleTask, WalkTask

__all__ = ["ArithmeticTask", "CycleTask", "MathTask", "Problem", "ReasoningGymTask", "Split", "Task", "WalkTask"]
