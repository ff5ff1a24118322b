"""Weight sync: new weights and the state of early stopping, sent from the learners to every runner.

- ``sync.py``: the function that the algorithm calls; ``object_store.py``, ``vllm_transfer.py``: the two ways
- ``vllm_sender.py``: vLLM's side of the second one; ``weight_pass.py``: what it is given
- ``packing.py``: a module's state as numpy arrays; ``calls.py``: calls on actors with time limits
"""
