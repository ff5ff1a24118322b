"""The vLLM engine: the engine protocol (``engine.py``) on vLLM with a critic and the failure detector inside.

vLLM is imported when an engine starts, and in no module outside this folder but ``weight_sync/vllm_sender.py``.
"""
