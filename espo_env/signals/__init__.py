"""Ready signals: regret and value of plain actions, from the policies of other libraries.

Each goes into the ``signals=`` of :class:`~espo_env.RegretTermination`, of the vector wrapper, or of ``gym.make``:

- :class:`TorchSignals`: from any function ``observation -> (logits, value)`` (``torch_function.py``)
- :class:`QSignals`: from any function ``observation -> Q-values`` (``torch_function.py``)
- :class:`SB3Signals`: from a Stable-Baselines3 PPO or A2C, without a second forward pass (``sb3.py``)
- :class:`SB3QSignals`: from a Stable-Baselines3 DQN (``sb3.py``)
- :class:`TorchRLSignals`: from a TorchRL actor-critic (``torchrl.py``)
- :class:`ActionWithSignals`: writes a TorchRL policy's own signals into its action (``torchrl.py``)

And :class:`AdaptInSB3` (``sb3.py``): a Stable-Baselines3 callback that adapts statistics and tolerance.

They are imported when they are asked for: none of the libraries is needed for the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from espo_env.signals.sb3 import AdaptInSB3, SB3QSignals, SB3Signals
    from espo_env.signals.torch_function import QSignals, TorchSignals
    from espo_env.signals.torchrl import ActionWithSignals, TorchRLSignals

__all__ = ["ActionWithSignals", "AdaptInSB3", "QSignals", "SB3QSignals", "SB3Signals", "TorchRLSignals", "TorchSignals"]

_PLACES = {
    "ActionWithSignals": "torchrl",
    "AdaptInSB3": "sb3",
    "QSignals": "torch_function",
    "SB3QSignals": "sb3",
    "SB3Signals": "sb3",
    "TorchRLSignals": "torchrl",
    "TorchSignals": "torch_function",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
