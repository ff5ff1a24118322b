"""Early-stopping PPO, PPO and ablations over task families and seeds: the tables of the README.

This example
------------
- makes the small transformers that runs start from (kept in ``quickstart_output``);
- trains every method on every family with every seed, as many runs at once as there are cores, through Ray Tune;
  methods with stops go on until they have used as many rollout tokens as plain PPO of the same seed;
- answers evaluation problems in the course of training, at equal updates and at equal tokens;
- writes ``results.json``, ``results.md`` and a plot for each family. A second call goes on where the
  first was cut short.

How to run this script
----------------------
``python examples/reproduce.py --smoke``      everything in small, a minute or two
``python examples/reproduce.py --dry-run``    the runs, and how long they take
``python examples/reproduce.py --full``       five families, all methods on one of them, seeds 100 to 104: two hours
``python examples/reproduce.py --seeds 0-2 --problem-seed 777 --arms ppo --set lr=1e-4 --output search``    for a search

It is ``espo reproduce``.
"""

import sys

from espo_algo.commands.cli import app

if __name__ == "__main__":
    app(["reproduce", *sys.argv[1:]])
