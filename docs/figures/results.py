"""Draws ``docs/images/results.png`` from the README's table: ``python docs/figures/results.py``."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
NUMBER = r"[-+]?\d+\.\d+"


def rows() -> list[tuple[str, float, float, list[float], list[float]]]:
    """Task; tokens saved and what an oracle saves, %; sampled and greedy accuracy at equal tokens: mean, low, high."""
    table = []
    for line in (ROOT / "README.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) == 9 and cells[2].endswith("%"):
            saved, oracle = (float(cell.split()[0]) for cell in cells[2:4])
            sampled, greedy = ([float(n) for n in re.findall(NUMBER, cell)] for cell in cells[7:])
            table.append((cells[0], saved, oracle, sampled, greedy))
    return table


def main() -> None:
    """Two panels: tokens saved beside an oracle, and accuracy with its intervals."""
    names, saved, oracle, sampled, greedy = zip(*rows(), strict=True)
    places = range(len(names))
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.3), sharey=True, layout="constrained")

    left.barh(places, oracle, color="#dfe3ee", height=0.62, label="an oracle would save")
    left.barh(places, saved, color="#3f51b5", height=0.62, label="saved")
    for place, share in zip(places, saved, strict=True):
        left.text(share - 0.8, place, f"{share:.0f} %", va="center", ha="right", color="white")
    # How many seeds, and which lambda, stands in the table.
    left.set_yticks(places, [re.sub(r", (5 seeds( of one start)?|lambda \.95)", "", name) for name in names])
    left.invert_yaxis()
    left.set_xlabel("rollout tokens saved in as many updates, %")
    # Room for the legends.
    left.set_xlim(0, 90)
    left.legend(frameon=False, loc="lower right")

    right.axvline(0, color="#999999", linewidth=1)
    for label, accuracy, shift, color in (("sampled", sampled, -0.13, "#3f51b5"), ("greedy", greedy, 0.17, "#e07a3f")):
        for place, (mean, low, high) in zip(places, accuracy, strict=True):
            error = [[mean - low], [high - mean]]
            right.errorbar(mean, place + shift, xerr=error, fmt="o", color=color, capsize=3, label=label)
            label = None  # once in the legend
    right.set_xlabel("accuracy against PPO at equal tokens, points")
    right.set_xlim(left=-5)
    right.legend(frameon=False, loc="lower left")
    figure.suptitle("Early-stopping PPO against PPO: 5 seeds or 10, 95 % intervals", fontsize=11)
    figure.savefig(ROOT / "docs" / "images" / "results.png", dpi=150)


if __name__ == "__main__":
    main()
