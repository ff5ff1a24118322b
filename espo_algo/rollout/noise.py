"""All random numbers of a response, from its seed alone: it comes out the same in any batch, runner and engine.

- :func:`request_noise`: the numbers that its tokens and the ``random`` stop rule are drawn with.
- :func:`stream`: a generator for one purpose.
- :data:`TOKENS`, :data:`RANDOM_RULE`, :data:`SHADOW`, :data:`TOKENS_LOW_BITS`: the purposes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RANDOM_RULE", "SHADOW", "TOKENS", "TOKENS_LOW_BITS", "request_noise", "stream"]

TOKENS = 0
"""The first 24 bits of the uniforms that tokens are drawn with."""
RANDOM_RULE = 1
"""The variate of the ``random`` stop rule."""
SHADOW = 2
"""Whether a stop is only marked."""
TOKENS_LOW_BITS = 3
"""The bits behind the first 24: without them a token less likely than 6e-8 is drawn too often or never."""


def stream(seed: int, purpose: int) -> np.random.Generator:
    """A generator of its own for each purpose. Never seed one with the bare seed: that is the stream of purpose 0.

    Args:
        seed: The response's.
        purpose: One of the constants above.
    """
    return np.random.default_rng([seed, purpose])


def request_noise(seed: int, count: int) -> tuple[NDArray[np.float64], float]:
    """The random numbers of one response.

    Args:
        seed: The request's seed, >= 0.
        count: Most tokens that it can have.

    Returns:
        Uniforms in [0, 1), shape (count,), one a token; and the Exp(1) variate of the ``random`` stop rule, from a
        stream of its own, so that it depends on no horizon.
    """
    uniforms = stream(seed, TOKENS).random(count, dtype=np.float32).astype(np.float64)
    uniforms += stream(seed, TOKENS_LOW_BITS).random(count) * 2.0**-24
    return uniforms, float(stream(seed, RANDOM_RULE).exponential())
