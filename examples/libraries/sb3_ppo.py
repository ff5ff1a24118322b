"""Stable-Baselines3's PPO with early stopping, on CartPole.

This example: trains for 25,000 steps while statistics and tolerance adapt, then evaluates without stops. Expected, with
seed 0: a mean return of 287 of 500. An untrained policy has about 20.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from espo_env import Adaptation, RegretTermination
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, ToleranceController
from espo_env.signals import AdaptInSB3, SB3Signals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    signals = SB3Signals()
    venv = DummyVecEnv(
        [lambda: Monitor(RegretTermination(gym.make("CartPole-v1"), signals=signals, fail_reward=0.0))] * 8
    )
    options = {
        "n_steps": 32,
        "batch_size": 256,
        "n_epochs": 20,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "learning_rate": 1e-3,
    }
    model = PPO("MlpPolicy", venv, **options, seed=args.seed, device="cpu")
    signals.attach(model)
    # Here hardly an episode fails because of one bad step: few are to be stopped, once the critic knows something.
    state = EarlyStoppingState(
        # Values are tens of steps here, and the threshold is beta times the value: beta has to be small.
        tolerance=ToleranceController(target=0.1, rate=0.5, bounds=(1e-4, 50.0), update="multiplicative"),
        warmup=CriticWarmup(min_explained_variance=0.3, total_steps=100),
        calibrate=True,
    )
    adaptation = Adaptation(*venv.envs, state=state)
    model.learn(args.steps, callback=AdaptInSB3(adaptation))

    mean, _ = evaluate_policy(model, Monitor(gym.make("CartPole-v1")), n_eval_episodes=10)
    print(f"beta {adaptation.state.tolerance.beta:.3g}, {adaptation.stop_rate:.0%} of the last episodes stopped")
    print(f"mean return {mean:.0f}")


if __name__ == "__main__":
    main()
