"""Tables and plots from runs made by hand."""

import json

import pytest

from espo_algo.experiments.plan import make_plans, write_run
from espo_algo.experiments.plots import _methods
from espo_algo.experiments.run import Schedule
from espo_algo.experiments.summary import summarise
from espo_algo.experiments.tables import markdown, write_results

# Two updates; PPO uses 100 tokens for each, stopping 80 (seed 0) or 70 (seed 1).
ACCURACY = {
    # arm, seed: (sampled, T = 0.6, greedy) after two updates, and at equal tokens
    ("ppo", 0): ((0.5, 0.6, 0.7), None),
    ("ppo", 1): ((0.6, 0.7, 0.8), None),
    ("espo", 0): ((0.51, 0.61, 0.69), (0.52, 0.62, 0.72)),
    ("espo", 1): ((0.63, 0.73, 0.77), (0.66, 0.76, 0.86)),
}


def point(iteration, tokens, accuracy, marked=0, wrong=None):
    sampled, cool, greedy = accuracy
    return {"iteration": iteration, "tokens": tokens, "sampled": sampled, "cool": cool, "greedy": greedy} | {
        "length": 10.0,
        "entropy": 0.1,
        "stop_rate": marked / 10,
        "wrong_stops": wrong,
        "marked": marked,
    }


def run(plan):
    stops = plan.arm == "espo"
    batch = {0: 80.0, 1: 70.0}[plan.seed] if stops else 100.0
    history = [
        {
            "iteration": i,
            "tokens": i * batch,
            "response_length": batch / 10,
            "stop_rate": 0.2 if stops else 0.0,
            "sampling_s": 0.9 if stops else 1.0,
            "update_s": 0.8 if stops else 1.0,
        }
        for i in range(1, 3 if plan.arm != "start" else 1)
    ]
    updates, tokens = ACCURACY.get((plan.arm, plan.seed), ((0.3, 0.3, 0.3), None))
    at_updates = point(len(history), len(history) * batch, updates, 4 * stops, 0.25 if stops else None)
    at_tokens = tokens and point(3, 3 * batch, tokens, 1, 0.0)
    course = [point(1, batch, (0.4, 0.4, 0.4), 5 * stops, 0.2 if stops else None), at_updates]
    course += [at_tokens] if at_tokens else []
    return {"plan": plan.record(), "token_budget": 200.0 if stops else None, "history": history, "course": course} | {
        "at_updates": at_updates,
        "at_tokens": at_tokens,
        "seconds": 1.0,
    }


@pytest.fixture(scope="module")
def runs():
    return [run(plan) for plan in make_plans(["cycle"], ["espo"], [0, 1], Schedule(0), iterations=2)]


def test_summaries_are_paired_by_seed(runs):
    start, ppo, espo = summarise(runs)
    assert (start.arm, ppo.arm, espo.arm) == ("start", "ppo", "espo")
    assert ppo.measured["sampled"].mean == pytest.approx(0.55)
    assert not ppo.at_updates
    assert not ppo.stops
    assert espo.at_updates["sampled"].mean == pytest.approx(0.02)  # +0.01, +0.03
    assert espo.at_updates["greedy"].mean == pytest.approx(-0.02)  # -0.01, -0.03
    half = 12.7062 * 0.01  # t(1, .975) times the standard error of the two
    assert espo.at_updates["sampled"].high - espo.at_updates["sampled"].mean == pytest.approx(half, rel=1e-4)
    assert espo.at_tokens["greedy"].mean == pytest.approx(0.04)  # +0.02, +0.06


def test_savings_wrong_stops_and_tokens_needed(runs):
    *_, espo = summarise(runs)
    assert espo.stops["saved"].mean == pytest.approx(0.25)  # 20 and 30 %
    assert espo.stops["sampling_saved"].mean == pytest.approx(0.1)
    assert espo.stops["update_saved"].mean == pytest.approx(0.2)
    assert espo.stops["time_ratio"].mean == pytest.approx(0.15 / 0.25)
    assert espo.stops["wrong_stops"].mean == pytest.approx(0.25)
    assert espo.stops["wrong_stops_course"].mean == pytest.approx(0.2)  # (5 * .2 + 4 * .25 + 0) / 10
    # Sampled: seed 0 passes .5 between .4 (80) and .51 (160), seed 1 .6 between .4 (70) and .63 (140); PPO needs 200.
    expected = ((80 + 80 * 10 / 11) / 200 + (70 + 70 * 20 / 23) / 200) / 2
    assert espo.tokens_needed["sampled"].mean == pytest.approx(expected)


def test_an_accuracy_that_one_seed_never_reaches_has_no_tokens(runs):
    changed = json.loads(json.dumps(runs))
    for point_ in changed[-1]["course"]:
        point_["sampled"] = 0.1
    *_, espo = summarise(changed)
    assert "sampled" not in espo.tokens_needed
    assert "greedy" in espo.tokens_needed


def test_a_run_without_its_baseline_stands_alone(runs):
    (espo,) = summarise([runs[-1]])
    assert espo.measured["sampled"].mean == pytest.approx(0.63)
    assert not espo.at_updates


def test_tables_have_a_row_for_each_method_and_say_which_targets_are_met(runs):
    text = markdown(summarise(runs), runs)
    assert "| early-stopping PPO | 2 | 57.0 ± 76.2 |" in text
    assert "| early-stopping PPO | PPO | +25.0 [-38.5, +88.5] | +2.0 [-10.7, +14.7] |" in text
    assert "| tokens saved, % | at least 20 | +25.0 [-38.5, +88.5] | reached |" in text
    assert "| sampled, equal updates | interval above -0.5 | +2.0 [-10.7, +14.7] | missed |" in text
    assert "built in favour" in text


def test_runs_with_starts_of_their_own_begin_at_them():
    runs = [run(plan) for plan in make_plans(["cycle"], ["espo"], [0, 1], Schedule(0), iterations=2, own_starts=True)]
    runs[1]["at_updates"]["sampled"] = 0.2  # of seed 1
    lines = dict(_methods(runs, "tokens", "sampled"))
    assert [values[0] for _, values in lines["PPO"]] == [0.3, 0.2]
    assert [values[0] for _, values in lines["early-stopping PPO"]] == [0.3, 0.2]
    start, *_ = summarise(runs)
    assert start.measured["sampled"].mean == pytest.approx(0.25)
    assert "means over seeds, each with a start of its own, with Student's" in markdown(summarise(runs), runs)


def test_results_are_files(runs, tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    for number, content in enumerate(runs):
        write_run(folder / f"{number}.json", content)
    files = write_results(folder, tmp_path)
    assert [file.name for file in files] == ["results.json", "results.md", "cycle.png", "cycle.svg"]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files[3].read_text("utf-8")
    results = json.loads(files[0].read_text("utf-8"))
    assert len(results["runs"]) == len(runs)
    assert results["summary"][-1]["at_tokens"]["greedy"][0] == pytest.approx(0.04)
