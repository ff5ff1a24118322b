"""An engine that answers from a table, so that what is measured is everything around it."""

from __future__ import annotations

from collections import deque

import numpy as np

from espo_algo.episodes import TokenEpisode
from espo_algo.rollout.engines import EngineKind
from espo_env.types import TRACE_COLUMNS, StopReason

_ROWS = 64


class TableEngine:
    """Ends every response in the step that admits it, after ``engine_options["tokens"]`` tokens."""

    def __init__(self, model, settings) -> None:
        rng, length = np.random.default_rng(0), settings.options["tokens"]
        self.num_slots, self._version = settings.num_slots, -1
        self._tokens = rng.integers(1, model.vocab_size - 8, (_ROWS, length), np.int32)
        self._tokens[self._tokens == settings.eos_token_id] = settings.eos_token_id + 1
        self._tokens[:, -1] = settings.eos_token_id
        self._traces = {name: rng.random((_ROWS, length), np.float32) for name in TRACE_COLUMNS}
        self._traces["logprobs"] = np.full((_ROWS, length), -np.log(model.vocab_size), np.float32)
        self._waiting: deque = deque()

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting)

    @property
    def num_live(self) -> int:
        return min(self.num_slots, len(self._waiting))

    def set_sampling(self, sampling) -> None:
        pass

    def set_detector_state(self, state) -> None:
        pass

    def weights_changed(self, version) -> None:
        self._version = version

    def submit(self, requests) -> None:
        self._waiting.extend(requests)

    def step(self) -> list[TokenEpisode]:
        return [self._answer(self._waiting.popleft()) for _ in range(self.num_live)]

    def _answer(self, request) -> TokenEpisode:
        row = request.seed % _ROWS
        return TokenEpisode(
            request.prompt_tokens,
            self._tokens[row],
            StopReason.EOS,
            request_id=request.request_id,
            seed=request.seed,
            weights_version=self._version,
            **{name: column[row] for name, column in self._traces.items()},
        )

    def abort(self) -> list[TokenEpisode]:
        self._waiting.clear()
        return []

    def rest(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


ENGINE = EngineKind("table_engine:TableEngine", takes_options=True)
