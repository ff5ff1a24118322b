"""Weight sync: new weights and the state of early stopping, sent from the learners to every runner.

- ``sync.py``: the function that the algorithm calls; ``object_store.py``, ``vllm_transfer.py``: the two ways
- ``packing.py``: a module's state as numpy arrays; ``calls.py``: calls on actors with time limits
"""
