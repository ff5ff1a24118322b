"""Drawing tokens from logits.

- :func:`draw`: one token a row, its log-probability and its step regret.
- :func:`end_broken`: ends responses whose numbers are not finite.
- :class:`Drawn`: the tokens with their log-probabilities and regrets.
- :func:`trace`: one step's log-probabilities, regrets, values, scores and thresholds, as engines keep them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from espo_algo.rollout.engine import SamplingSettings
from espo_env.early_stopping import Verdict, step_regret

__all__ = ["Drawn", "draw", "end_broken", "trace"]


@dataclass(slots=True)
class Drawn:
    """One drawn token for each row of logits; tensors of shape (n,)."""

    tokens: Tensor
    """int64."""
    logprobs: Tensor
    """float32, nats, under the distribution that was sampled from."""
    regrets: Tensor
    """float32, nats, >= 0."""


def draw(logits: Tensor, uniforms: Tensor, sampling: SamplingSettings) -> Drawn:
    """Draws by the inverse of the cumulative distribution, which is summed up in float64.

    In float32 the rounding of a sum over 150,000 tokens, and uniforms of 24 bits, would draw from a distribution that
    is off by about 1e-3 (total variation) from the one whose log-probabilities are reported.

    One float32 and one float64 buffer of the logits' size are allocated; ``logits`` itself is used up.

    Args:
        logits: Shape (n, V), float32. Overwritten.
        uniforms: In [0, 1), shape (n,), float64. Not looked at by greedy decoding.
        sampling: How to draw. Greedy decoding reports log-probabilities at temperature 1.

    Returns:
        The tokens. A token of probability zero is never drawn. From logits that are not finite a token of the
        vocabulary is drawn, too, whose log-probability is not finite.
    """
    if sampling.greedy:
        best, tokens = logits.max(dim=-1, keepdim=True)
        totals = logits.sub_(best).exp_().sum(dim=-1)
        return Drawn(tokens[:, 0], -totals.log(), torch.zeros_like(totals))
    if sampling.temperature != 1.0:
        logits.div_(sampling.temperature)
    if sampling.top_k:
        _keep_top_k(logits, sampling.top_k)
    if sampling.top_p < 1.0:
        _keep_top_p(logits, sampling.top_p)
    # Summed in place: cumsum(dtype=...) would hold the addends in float64 beside the sums.
    cumulative = (logits - logits.amax(dim=-1, keepdim=True)).exp_().double().cumsum_(dim=-1)
    totals = cumulative[:, -1:].clone()
    # Strictly below the total, so that rounding cannot lead behind the last token with weight; and right=True goes
    # past every token that adds nothing.
    targets = torch.minimum(uniforms[:, None] * totals, totals.nextafter(torch.zeros_like(totals)))
    # NaN would lead behind the last token, and a GPU would stop at the look-up of that one.
    tokens = torch.searchsorted(cumulative, targets, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    regrets = step_regret(logits, tokens)
    # log(w / total), where log(w) = -regret: the best token's weight is 1.
    return Drawn(tokens, -regrets - totals[:, 0].log().float(), regrets)


def end_broken(drawn: Drawn, values: Tensor, eos_token_id: int) -> None:
    """Writes the end-of-sequence token where a log-probability or value is not finite: what follows means nothing.

    Such a response is lost by its columns when it is collected. Nothing waits for the device here.

    Args:
        drawn: Its tokens are replaced.
        values: Shape (n,).
        eos_token_id: The end-of-sequence token.
    """
    drawn.tokens = torch.where(torch.isfinite(drawn.logprobs + values), drawn.tokens, eos_token_id)


def trace(drawn: Drawn, values: Tensor, verdict: Verdict) -> Tensor:
    """One step's row of each of :data:`~espo_env.types.TRACE_COLUMNS`: float32, shape (len(TRACE_COLUMNS), n)."""
    return torch.stack((drawn.logprobs, drawn.regrets, values, verdict.score, verdict.threshold))


def _keep_top_k(logits: Tensor, k: int) -> None:
    if k < logits.shape[-1]:
        smallest = logits.topk(k, dim=-1).values[:, -1:]
        logits.masked_fill_(logits < smallest, -torch.inf)


def _keep_top_p(logits: Tensor, p: float) -> None:
    """Keeps the likeliest tokens until their probability reaches ``p``: the smallest such set, ties included."""
    ordered = logits.sort(dim=-1, descending=True).values
    before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
    before[:, 0] = 0.0
    kept = (before < p).sum(dim=-1, keepdim=True)
    logits.masked_fill_(logits < ordered.gather(-1, kept - 1), -torch.inf)
