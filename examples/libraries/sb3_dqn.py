"""Stable-Baselines3's DQN with early stopping: the regret of an action is how far its Q-value lies below the best.

This example: trains on a lake of 4 x 4 fields that is not slippery, then evaluates without stops. Expected, with seed
0: a mean return of 1.00. An untrained policy has 0.00.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from espo_env import Adaptation, RegretTermination
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, ToleranceController
from espo_env.signals import AdaptInSB3, SB3QSignals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    signals = SB3QSignals()
    lake = gym.make("FrozenLake-v1", is_slippery=False)
    # Q-values are at most 1 here, and so are regrets: the scale of statistics and tolerance is found by itself.
    env = RegretTermination(lake, signals=signals, fail_reward=0.0, value_floor=0.05)
    model = DQN(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        learning_starts=500,
        gamma=0.95,
        target_update_interval=250,
        exploration_fraction=0.7,
        seed=args.seed,
        device="cpu",
    )
    signals.attach(model)
    state = EarlyStoppingState(
        tolerance=ToleranceController(target=0.1, bounds=(1e-3, 50.0), update="multiplicative"),
        warmup=CriticWarmup(total_steps=100),  # a tenth of so many updates
        calibrate=True,
    )
    adaptation = Adaptation(env, state=state)
    model.learn(args.steps, callback=AdaptInSB3(adaptation, min_episodes=20))

    mean, _ = evaluate_policy(model, Monitor(gym.make("FrozenLake-v1", is_slippery=False)), n_eval_episodes=10)
    print(f"beta {adaptation.state.tolerance.beta:.3g}, {adaptation.stop_rate:.0%} of the last episodes stopped")
    print(f"mean return {mean:.2f}")


if __name__ == "__main__":
    main()
