"""Which runs a comparison has, and which of them are done."""

from dataclasses import replace

import pytest

from espo_algo.experiments.arms import ARMS, FAMILIES
from espo_algo.experiments.config import build_config, with_settings
from espo_algo.experiments.plan import START, make_plans, read_run, unfinished, write_run
from espo_algo.experiments.run import Schedule
from espo_algo.experiments.settings import get_setting, measure_task
from espo_algo.learning.sft import save_model, small_model


def test_baselines_and_starts_are_added():
    plans = make_plans(["cycle"], ["espo"], [0, 1], Schedule(0), settings={"lr": 1e-4})
    assert [plan.name for plan in plans] == [
        "cycle-start-lr=0.0001-0",
        "cycle-ppo-lr=0.0001-0",
        "cycle-espo-lr=0.0001-0",
        "cycle-ppo-lr=0.0001-1",
        "cycle-espo-lr=0.0001-1",
    ]
    assert [plan.schedule.iterations for plan in plans] == [0, 60, 60, 60, 60]
    assert {plan.baseline for plan in plans} == {None, "ppo"}


def test_each_seed_may_have_a_start_of_its_own(tmp_path):
    plans = make_plans(["cycle"], ["espo"], [3, 4], Schedule(0), own_starts=True)
    assert [plan.name for plan in plans if plan.arm == START] == ["cycle-start-3", "cycle-start-4"]
    assert all(plan.start_seed == plan.seed for plan in plans)
    (shared,) = (plan for plan in make_plans(["cycle"], ["espo"], [3], Schedule(0)) if plan.arm == "espo")
    (own,) = (plan for plan in plans if (plan.arm, plan.seed) == ("espo", 3))
    write_run(tmp_path / f"{shared.name}.json", {"plan": shared.record()})
    with pytest.raises(ValueError, match="expected a run with start_seed 3, got one with None"):
        unfinished([own], tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_is_a_configuration(family, arm, tmp_path):
    settings = {"lr": 1e-4} | ({"rollouts_per_prompt": 4} if arm == "pilots" else {})
    plan = make_plans([family], [arm], [3], Schedule(0), settings=settings, sft_steps=1)[-1]
    config = build_config(task="arithmetic", model=tmp_path, seed=plan.seed)
    config = with_settings(config, plan.settings)
    assert config.lr == 1e-4
    assert (config.rule == "never") == (arm in ("ppo", "grpo", "dapo", "start"))
    for name, value in ARMS[arm].settings.items():
        assert getattr(config, name) == value


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    horizon, task = measure_task(get_setting("arithmetic"))
    model = small_model(task, max_length=task.max_prompt_tokens + horizon, hidden_size=8, num_layers=1, num_heads=1)
    return save_model(model, task, tmp_path_factory.mktemp("start"))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_arms_of_a_family_pass_validation(family, start):
    """Pilots need siblings."""
    plans = make_plans([family], None, [3], Schedule(0))
    arms = {plan.arm for plan in plans} - {START}
    assert arms == set(ARMS) - (set() if family in ("arithmetic_8", "smollm2") else {"pilots"})
    for plan in plans:
        with_settings(build_config(task="arithmetic", model=start, seed=3), plan.settings).validate()


def test_what_has_its_file_is_not_run_again(tmp_path):
    plans = make_plans(["cycle"], ["espo"], [0], Schedule(0))
    write_run(tmp_path / f"{plans[1].name}.json", {"plan": plans[1].record()})
    assert unfinished(plans, tmp_path) == [plans[0], plans[2]]


def test_runs_with_other_settings_are_not_taken(tmp_path):
    plan = make_plans(["cycle"], ["espo"], [0], Schedule(0))[-1]
    path = tmp_path / f"{plan.name}.json"
    write_run(path, {"plan": plan.record()})
    with pytest.raises(ValueError, match=r"expected a run with schedule .*'problems': 99"):
        unfinished([replace(plan, schedule=replace(plan.schedule, problems=99))], tmp_path)
    # A budget follows from another run.
    assert not unfinished([replace(plan, schedule=replace(plan.schedule, token_budget=5.0))], tmp_path)


def test_bad_names_and_files_are_explained(tmp_path):
    with pytest.raises(ValueError, match=r"expected a family out of \[.*got 'cycles'"):
        make_plans(["cycles"], ["espo"], [0], Schedule(0))
    with pytest.raises(ValueError, match=r"expected an? arm out of \[.*got 'grpp'"):
        make_plans(["cycle"], ["grpp"], [0], Schedule(0))
    with pytest.raises(ValueError, match=r"expected an arm with fewer pilots than .* on cycle, got 'pilots'"):
        make_plans(["cycle"], ["pilots"], [0], Schedule(0))
    (tmp_path / "run.json").write_text("{", "utf-8")
    with pytest.raises(ValueError, match=r"run.json: expected the file of a run"):
        read_run(tmp_path / "run.json")
    with pytest.raises(ValueError, match=r"expected a setting of ESPOConfig \(fail_reward\?\), got 'fail_rewards'"):
        with_settings(build_config(model=tmp_path), {"fail_rewards": 0.0})
