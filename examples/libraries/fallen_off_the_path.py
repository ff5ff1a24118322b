"""Failing early where it is real, without a language model: an agent that falls off a path never gets back on.

This example: trains Stable-Baselines3's PPO with and without early stopping, and prints how many environment steps each
needed until 100 episodes in a row had brought 80 % of the path's rewards on average. Expected, with seed 0:

    plain PPO needed 16616 steps, early-stopping PPO 10672

An untrained policy gets off the path at once, and has 0.05 of 1.6.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from espo_env import Adaptation, RegretTermination
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, ToleranceController
from espo_env.signals import AdaptInSB3, SB3Signals


class Path(gym.Env):
    """Six steps with one right direction out of four each; behind a wrong one lies nothing but the horizon.

    A right step brings 0.1, the last one 1.0 more. Observation: the place on the path, or that it was left, one-hot.
    """

    length, horizon = 6, 60

    def __init__(self) -> None:
        self.action_space = gym.spaces.Discrete(4)
        self.observation_space = gym.spaces.Box(0.0, 1.0, (self.length + 1,), np.float32)
        self._directions = np.random.default_rng(0).integers(4, size=self.length)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._place, self._steps = 0, 0
        return self._observation(), {}

    def step(self, action):
        self._steps += 1
        on = self._place < self.length and action == self._directions[self._place]
        self._place = self._place + 1 if on else self.length
        arrived = on and self._place == self.length
        reward = 0.1 * on + 1.0 * arrived
        return self._observation(), reward, bool(arrived), self._steps >= self.horizon, {}

    def _observation(self):
        return np.eye(self.length + 1, dtype=np.float32)[self._place]


class UntilReturn(BaseCallback):
    """Ends training when the last 100 episodes have brought this much on average."""

    def __init__(self, goal: float) -> None:
        super().__init__()
        self.goal = goal

    def mean_return(self) -> float:
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        return float(np.mean(returns)) if len(returns) == 100 else 0.0

    def _on_step(self) -> bool:
        return self.mean_return() < self.goal


def train(stop_early: bool, max_steps: int, seed: int) -> tuple[int, float]:
    """Environment steps until the goal was reached, and the last 100 episodes' mean return."""
    signals = SB3Signals()
    rule = "regret_value" if stop_early else "never"

    def make() -> gym.Env:
        # Nothing is lost by leaving: what follows a fall is worth 0, too. The gate sees the state behind the step.
        env = RegretTermination(Path(), signals=signals, rule=rule, fail_reward=0.0, smoothing=0.5, gate="after")
        return Monitor(env)

    venv = DummyVecEnv([make] * 8)
    model = PPO(
        "MlpPolicy", venv, n_steps=128, batch_size=256, gae_lambda=0.95, learning_rate=1e-3, seed=seed, device="cpu"
    )
    signals.attach(model)
    state = EarlyStoppingState(
        tolerance=ToleranceController(target=0.5, rate=0.2, bounds=(0.05, 50.0), update="multiplicative"),
        warmup=CriticWarmup(patience=3),
        calibrate=True,
    )
    until = UntilReturn(0.8 * 1.6)
    model.learn(max_steps, callback=CallbackList([AdaptInSB3(Adaptation(*venv.envs, state=state)), until]))
    return model.num_timesteps, until.mean_return()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60_000, help="at most this many for each of the two")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    plain, stopping = (train(stop_early, args.steps, args.seed) for stop_early in (False, True))
    print(f"mean return {plain[1]:.2f} and {stopping[1]:.2f} of 1.60")
    print(f"plain PPO needed {plain[0]} steps, early-stopping PPO {stopping[0]}")


if __name__ == "__main__":
    main()
