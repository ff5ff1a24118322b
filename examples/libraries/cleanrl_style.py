"""PPO in a single file, in CleanRL's manner, with early stopping inside the vector environment.

This example: trains on CartPole; each action carries the regret and value that sampling it has computed. Expected, with
seed 0: the last 20 episodes of training had a mean return of 421 of 500. An untrained policy has about 20.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from espo_env import Adaptation, VectorRegretTermination
from espo_env.early_stopping import CriticWarmup, EarlyStoppingState, ToleranceController, step_regret

NUM_ENVS, NUM_STEPS, EPOCHS, MINIBATCHES = 8, 128, 6, 4
GAMMA, LAMBDA, CLIP, LR, ENTROPY = 0.99, 0.95, 0.2, 1e-3, 0.01


def network(num_inputs: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, num_outputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    envs = VectorRegretTermination(gym.make_vec("CartPole-v1", NUM_ENVS, "sync"), fail_reward=0.0)
    state = EarlyStoppingState(
        # Values are tens of steps here, and the threshold is beta times the value: beta has to be small.
        tolerance=ToleranceController(target=0.1, rate=0.5, bounds=(1e-4, 50.0), update="multiplicative"),
        warmup=CriticWarmup(min_explained_variance=0.3, total_steps=100),
        calibrate=True,
    )
    adaptation = Adaptation(envs, state=state)
    lengths: list[int] = []
    envs.listen(lambda episode: lengths.append(len(episode)))

    actor, critic = network(4, 2), network(4, 1)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LR)

    shape = (NUM_STEPS, NUM_ENVS)
    observations, actions = torch.zeros(*shape, 4), torch.zeros(shape, dtype=torch.long)
    logprobs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))
    next_observation = torch.as_tensor(envs.reset(seed=args.seed)[0])
    next_done = torch.zeros(NUM_ENVS)

    for _ in range(args.steps // (NUM_STEPS * NUM_ENVS)):
        for t in range(NUM_STEPS):
            observations[t], dones[t] = next_observation, next_done
            with torch.no_grad():
                logits, values[t] = actor(next_observation), critic(next_observation)[:, 0]
            distribution = torch.distributions.Categorical(logits=logits)
            actions[t] = distribution.sample()
            logprobs[t] = distribution.log_prob(actions[t])
            # The one line that early stopping needs: what sampling has computed goes along.
            action = {"token": actions[t], "regret": step_regret(logits, actions[t]), "value": values[t]}
            out, reward, terminated, truncated, _ = envs.step({name: part.numpy() for name, part in action.items()})
            rewards[t] = torch.as_tensor(reward)
            next_observation = torch.as_tensor(out)
            next_done = torch.as_tensor(terminated | truncated).float()

        with torch.no_grad():
            advantages, last, following = torch.zeros(shape), torch.zeros(NUM_ENVS), critic(next_observation)[:, 0]
        for t in reversed(range(NUM_STEPS)):
            alive = 1 - (next_done if t == NUM_STEPS - 1 else dones[t + 1])
            delta = rewards[t] + GAMMA * alive * following - values[t]
            advantages[t] = last = delta + GAMMA * LAMBDA * alive * last
            following = values[t]
        returns = advantages + values

        # The step after an episode's end only resets its slot: nothing is learnt from it.
        real = np.flatnonzero(dones.flatten().numpy() == 0)
        columns = [c.flatten(0, 1) for c in (observations, actions, logprobs, advantages, returns)]
        explained = 1 - (returns - values).flatten()[real].var() / returns.flatten()[real].var()
        losses = []
        for _ in range(EPOCHS):
            for rows in np.array_split(rng.permutation(real), MINIBATCHES):
                obs, act, old, advantage, target = (column[rows] for column in columns)
                distribution = torch.distributions.Categorical(logits=actor(obs))
                ratio = (distribution.log_prob(act) - old).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy_loss = -torch.min(advantage * ratio, advantage * ratio.clip(1 - CLIP, 1 + CLIP)).mean()
                critic_loss = (critic(obs)[:, 0] - target).pow(2).mean()
                optimizer.zero_grad()
                (policy_loss + 0.5 * critic_loss - ENTROPY * distribution.entropy().mean()).backward()
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimizer.step()
                losses.append(critic_loss.item())
        adaptation.update(float(np.mean(losses)), float(explained))

    print(f"beta {adaptation.state.tolerance.beta:.3g}, {adaptation.stop_rate:.0%} of the last episodes stopped")
    print(f"mean return {np.mean(lengths[-20:]):.0f}")


if __name__ == "__main__":
    main()
