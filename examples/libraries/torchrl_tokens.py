"""TorchRL's PPO loss writes tokens, with early stopping.

This example: trains a small network from nothing on a task of one letter. Expected, with seed 0: 0.99 of the last
200 answers of training are right. Of an untrained policy's one in 16 is.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from reverse_task import ReverseTask
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import espo_env  # noqa: F401 (registers the ids)
from espo_env import Adaptation
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, ToleranceController
from espo_env.signals import ActionWithSignals

BATCH, EPOCHS, MINIBATCH = 1024, 4, 256


class TokenNetwork(nn.Module):
    """Tokens and length, one-hot, through two layers: token ids are names, not numbers."""

    def __init__(self, vocab_size: int, max_length: int, num_outputs: int) -> None:
        super().__init__()
        self.vocab_size, self.max_length = vocab_size, max_length
        width = (vocab_size + 1) * max_length + 1
        self.layers = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, num_outputs))

    def forward(self, tokens, length):
        names = nn.functional.one_hot(tokens.long(), self.vocab_size).flatten(-2)
        places = nn.functional.one_hot(length.long()[..., 0], self.max_length + 1)
        return self.layers(torch.cat([names, places], -1).float())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16_384)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    early_stopping = {"fail_reward": 0.0, "smoothing": 0.5}
    inner = gym.make(
        "espo_env/TokenGeneration-v0", task=ReverseTask(length=1), max_new_tokens=4, early_stopping=early_stopping
    )
    state = EarlyStoppingState(
        tolerance=ToleranceController(target=0.1, update="multiplicative"),
        warmup=CriticWarmup(total_steps=100),
        calibrate=True,
    )
    adaptation = Adaptation(inner, state=state)
    right: list[bool] = []
    inner.get_wrapper_attr("listen")(lambda episode: right.append(episode.correct is True))
    env = GymWrapper(inner)
    env.set_seed(args.seed)

    mdp, keys = inner.unwrapped.mdp, ["tokens", "length"]
    logits = TensorDictModule(
        TokenNetwork(mdp.vocab_size, mdp.max_length, mdp.vocab_size), in_keys=keys, out_keys=["logits"]
    )
    actor = ProbabilisticActor(
        logits, in_keys=["logits"], out_keys=["token"], distribution_class=OneHotCategorical, return_log_prob=True
    )
    critic = ValueOperator(TokenNetwork(mdp.vocab_size, mdp.max_length, 1), in_keys=keys)
    policy = TensorDictSequential(actor, critic, ActionWithSignals())

    loss_module = ClipPPOLoss(
        actor, critic, entropy_coeff=0.01, critic_coeff=0.5, loss_critic_type="l2", normalize_advantage=True
    )
    loss_module.set_keys(action="token", sample_log_prob="token_log_prob")
    advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=3e-3)

    for batch in Collector(env, policy, frames_per_batch=BATCH, total_frames=args.steps // BATCH * BATCH):
        batch, losses = batch.exclude("state_value"), []  # GAE asks the critic itself, about next states, too
        for _ in range(EPOCHS):
            with torch.no_grad():
                advantage(batch)
            flat = batch.reshape(-1)
            for rows in torch.randperm(BATCH).split(MINIBATCH):
                parts = loss_module(flat[rows])
                optimizer.zero_grad()
                (parts["loss_objective"] + parts["loss_critic"] + parts["loss_entropy"]).backward()
                optimizer.step()
                losses.append(parts["loss_critic"].item() / 0.5)
        adaptation.update(float(np.mean(losses)))

    print(f"beta {adaptation.state.tolerance.beta:.3g}, {adaptation.stop_rate:.0%} of the last episodes stopped")
    print(f"accuracy {np.mean(right[-200:]):.2f}")


if __name__ == "__main__":
    main()
