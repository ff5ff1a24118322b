"""Rollouts: engines that write responses, and the runner that drives environment and engine.

- ``env_runner.py``: the runner; ``collect.py``: its loop over environment and engine; ``plans.py``: what is answered
- ``engine.py``: the engine protocol; ``engines.py``: engines by name; ``embedded``, ``vllm``: the two there are
- ``sampling.py``, ``noise.py``: how tokens are drawn, in both engines; ``environment.py``: the configured environment
"""
