from __future__ import annotations

import inspect
import itertools
import operator
import pickle
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

import espo_env
from espo_env import Tokenizer
from espo_env.tasks import Problem, ReasoningGymTask
from espo_env.tasks.reasoning_gym import REFUSED
from espo_env.tasks.reasoning_gym_working import WORKINGS

pytest.importorskip("reasoning_gym")

ROOT = Path(espo_env.__file__).parents[1]
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "%": operator.mod}
COMPACT = sorted(name for name, working in WORKINGS.items() if working.symbols)


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("generator", sorted(WORKINGS))
def test_workings_are_graded_as_right(generator, split):
    ReasoningGymTask(generator).validate(60, split)


@pytest.mark.parametrize("generator", COMPACT)
def test_compact_prompts_fit_their_vocabulary(generator):
    config = {"node_range": 62} if generator == "path_star" else {}
    task = ReasoningGymTask(generator, prompt="compact", **config)
    task.validate(200)
    assert task.tokenizer.vocab_size < 80
    assert all(task.problem(i).prompt.endswith("=") for i in range(20))


@pytest.mark.parametrize("generator", ["base_conversion", "count_bits", "mini_sudoku", "word_sorting", "caesar_cipher"])
def test_other_generators_have_their_answer_for_a_solution(generator):
    task = ReasoningGymTask(generator)
    task.validate(20)
    assert task.problem(0).solution == f"#### {task.problem(0).answer}"


def arithmetic_lines(solution):
    """Every ``a o b = c`` of a working."""
    number = r"(-?\d+(?:\.\d+)?)"
    return re.findall(rf"(?:^|;){number}([-+*/%]){number}={number}", solution)


@pytest.mark.parametrize(
    ("generator", "config"),
    [
        ("chain_sum", {"allow_negation": True}),
        ("decimal_chain_sum", {}),
        ("products", {"max_terms": 4, "max_digits": 3, "allow_negation": True}),
        ("gcd", {"max_numbers": 4}),
        ("lcm", {"max_numbers": 4}),
        ("leg_counting", {}),
    ],
)
def test_each_line_of_a_working_is_true(generator, config):
    task = ReasoningGymTask(generator, prompt="compact", **config)
    task.validate(100)
    for index in range(100):
        solution = task.problem(index).solution
        lines = arithmetic_lines(solution)
        assert len(lines) == solution.count(";")
        for a, sign, b, c in lines:
            assert OPERATORS[sign](Decimal(a), Decimal(b)) == Decimal(c)


def test_working_of_a_product_by_hand():
    _, working = WORKINGS["products"].write({"metadata": {"expression": "99 * 208 * 0"}})
    assert working == "99*200=19800;99*8=792;19800+792=20592;20592*0=0;"


def test_working_of_a_search_by_hand():
    entry = {
        "question": "Find a path.\n|1 2|5 6|1 3|1 5|2 4|3 10/1 10 = \n",
        "metadata": {"center": 1, "goal": 10},
    }
    assert WORKINGS["path_star"].write(entry) == ("|1 2|5 6|1 3|1 5|2 4|3 10/1 10=", "1 2 4:10;1 3 10:10;")


def test_a_search_may_take_the_arms_in_any_order_but_each_once():
    task = ReasoningGymTask("path_star", prompt="compact", degree=3, node_range=36)
    entry = {
        "question": "|1 2|5 6|1 3|1 5|2 4|3 10/1 10 = ",
        "answer": "1 3 10",
        "metadata": {"center": 1, "goal": 10},
    }
    problem = Problem("|12|56|13|15|24|3a/1a=", "1 3 10", "124:a;13a:a;#### 13a", metadata=entry)

    def first_error(text):
        return task.first_error(problem, [0 if c == "$" else task.tokenizer.encode(c)[0] for c in text])

    # Each of the others, in any order, or none of them, before the arm that ends at the goal.
    assert len(task.right_responses(problem)) == 1 + 5
    for right in ("124:a;13a:a;#### 13a$", "13a:a;#### 13a$", "156:a;124:a;13a:a;#### 13a$", "156:a;1"):
        assert first_error(right) == -1
    assert first_error("124:a;124:a;13a:a;") == 7  # once more
    assert first_error("134") == 2  # no such edge
    assert first_error("124:4;") == 4  # not the goal
    assert first_error("13a:a;156:a;") == 6  # on, although it was found
    assert first_error("124:a;156:a;#") == 12  # an answer, although it was not
    assert first_error("13a:a;#### 124$") == 12
    assert first_error("13a:a;#### 13a;") == 14


@pytest.mark.parametrize(("prompt", "options"), [("compact", {"node_range": 36}), ("question", {})])
@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_search_goes_along_the_arms_in_their_order_until_one_ends_at_the_goal(prompt, options, split):
    task = ReasoningGymTask("path_star", prompt=prompt, degree=4, **options)
    task.validate(100, split)
    searched = set()
    for index in range(100):
        problem = task.problem(index, split)
        *written, last = problem.solution.split(";")
        arms, goals = zip(*(arm.split(":") for arm in written), strict=True)
        assert {*goals} == {problem.prompt.rstrip(" =\n")[-len(goals[0]) :]}
        if prompt == "compact":
            edges = [tuple(edge) for edge in problem.prompt.partition("/")[0][1:].split("|")]
        else:
            arms = [arm.split() for arm in arms]
            line = problem.prompt.strip().rpartition("\n")[2]
            edges = [tuple(edge.split()) for edge in line.partition("/")[0][1:].split("|")]
        for arm in arms:
            assert all(step in edges for step in itertools.pairwise(arm))
            assert not any(edge[0] == arm[-1] for edge in edges)  # a leaf
        firsts = [there for here, there in edges if here == arms[0][0]]
        assert [arm[1] for arm in arms] == firsts[: len(arms)]
        assert last == f"#### {arms[-1] if prompt == 'compact' else ' '.join(arms[-1])}"
        searched.add(len(arms))
    assert searched == {1, 2, 3, 4}


@pytest.mark.parametrize("response", ["#### {}a", "{}", "#### ", "#### ;|", "#### é", "#### 1 2"])
def test_a_compact_path_is_scored_whole(response):
    task = ReasoningGymTask("path_star", prompt="compact", node_range=36)
    problem = task.problem(0)
    path = problem.solution.rpartition(" ")[2]
    assert task.grade(problem, f"#### {path}").correct
    assert not task.grade(problem, response.format(path)).correct


def test_nodes_without_a_character_of_their_own_are_an_error():
    with pytest.raises(ValueError, match=r"expected nodes below 62 where prompts are compact \(node_range\), got \d+"):
        ReasoningGymTask("path_star", prompt="compact").problem(0)


@pytest.mark.parametrize(
    ("response", "correct"),
    [
        ("#### {answer}", True),
        (r"so \boxed{{{answer}}}", True),
        ("Answer: {answer}", True),
        ("{answer}", False),
        ("#### {question}", False),
        ("#### The answer is {answer}.", False),
        ("#### {answer} or not", False),
        ("", False),
        ("####", False),
    ],
)
def test_partial_credit_is_no_credit(response, correct):
    for generator in ("chain_sum", "base_conversion"):
        task = ReasoningGymTask(generator)
        problem = task.problem(1)
        text = response.format(answer=problem.answer, question=problem.metadata["question"])
        assert task.grade(problem, text).correct is correct


def test_an_unsimplified_fraction_is_not_simplified():
    task = ReasoningGymTask("fraction_simplification", styles=("plain",))
    problem = next(p for p in map(task.problem, range(50)) if p.metadata["metadata"]["reduction_factor"] > 1)
    entry = problem.metadata["metadata"]
    assert task.grade(problem, f"#### {problem.answer}").correct
    assert not task.grade(problem, f"#### {entry['numerator']}/{entry['denominator']}").correct


def test_answers_over_several_lines_are_taken_whole():
    task = ReasoningGymTask("mini_sudoku")
    problem = task.problem(0)
    assert "\n" in problem.answer
    assert not task.grade(problem, "#### " + problem.answer.splitlines()[0]).correct


def test_splits_take_different_indices_and_share_no_problem_even_in_a_small_space():
    task = ReasoningGymTask("chain_sum", max_terms=2, max_digits=1, num_train=1500, num_eval=500)
    train, evaluation = (
        {task.problem(i, split).prompt for i in range(task.num_problems(split))} for split in ("train", "eval")
    )
    assert len(train) + len(evaluation) > 190  # of 200 there are
    assert not train & evaluation


def test_neighbouring_seeds_are_no_shifted_copies():
    sets = [{ReasoningGymTask("chain_sum", seed=s, num_train=50).problem(i).prompt for i in range(50)} for s in (3, 4)]
    # A few short chains come up in both by chance.
    assert len(sets[0] & sets[1]) < 10


def test_problems_are_the_same_in_another_process():
    task = ReasoningGymTask("gsm_symbolic", seed=2)
    copy = pickle.loads(pickle.dumps(task))
    assert [copy.problem(i) for i in range(5)] == [task.problem(i) for i in range(5)]
    assert copy.max_prompt_tokens == task.max_prompt_tokens


def test_prompts_longer_than_the_limit_are_passed_over():
    task = ReasoningGymTask("leg_counting", prompt="compact", max_prompt_tokens=50)
    task.validate(100)
    with pytest.raises(ValueError, match="expected a problem for index 0 of 'train' with a prompt of at most 3 tokens"):
        ReasoningGymTask("leg_counting", max_prompt_tokens=3).problem(0)


def test_prompt_templates_and_tokenizers_of_models(tmp_path):
    Tokenizer.from_bytes().save_pretrained(tmp_path)
    task = ReasoningGymTask("gcd", tokenizer=tmp_path, prompt="Q: {question}\nA:")
    problem = task.problem(0)
    assert problem.prompt == f"Q: {problem.metadata['question']}\nA:"
    task.validate(20)


@pytest.mark.parametrize("generator", sorted(REFUSED))
def test_generators_whose_scorer_runs_text_are_refused_with_the_reason(generator):
    with pytest.raises(ValueError, match=f"got '{generator}': it"):
        ReasoningGymTask(generator)


def test_every_scorer_that_runs_text_is_refused():
    """Reads the sources of all scorers that are installed."""
    from reasoning_gym.factory import DATASETS

    runs_text = re.compile(r"\beval\(|\bexec\(|parse_expr\(|sympify\(|literal_eval\(|\bcompile\(|subprocess|pickle")
    # Its eval() is of the reference answer alone.
    safe = {"number_sorting"}
    found = {
        name for name, (kind, _) in DATASETS.items() if runs_text.search(inspect.getsource(kind.score_answer))
    } - safe
    assert found == set(REFUSED) - {"composite"}
    assert 'eval(entry["answer"])' in inspect.getsource(DATASETS["number_sorting"][0].score_answer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "chain_sun"}, r"expected one of reasoning-gym's \d+ generators, got 'chain_sun' .*chain_sum"),
        ({"min_terms": 9}, "chain_sum: expected options that it takes, got {'min_terms': 9}: max_terms must be"),
        ({"terms": 9}, "got {'terms': 9}: .* unexpected keyword argument 'terms'"),
        ({"size": 9}, "expected num_train and num_eval instead of size, got size=9"),
        ({"num_eval": 0}, "expected num_eval >= 1, got 0"),
        ({"seed": -1}, "expected seed >= 0, got -1"),
        (
            {"prompt": "short"},
            "expected prompt 'question', 'compact', 'chat' or a template with {question}, got 'short'",
        ),
        (
            {"generator": "sudoku", "prompt": "compact"},
            r"expected a generator with a compact prompt \(.*\), got 'sudoku'",
        ),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ReasoningGymTask(**{"generator": "chain_sum"} | options)


def test_a_missing_installation_is_named_with_its_extra():
    code = """
import sys
sys.modules["reasoning_gym"] = None
from espo_env.tasks import Problem, ReasoningGymTask
try:
    ReasoningGymTask("chain_sum")
except ImportError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "pip install 'espo[tasks]'" in out.stdout


CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}[assistant]"


@pytest.fixture
def chat_model(tmp_path):
    """The folder of a tokenizer with a chat template."""
    pytest.importorskip("jinja2")
    Tokenizer.from_bytes().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHAT, "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("chat", "[user] {}[assistant]"), ("chat:Now: {question} Go!", "[user] Now: {} Go![assistant]")],
)
def test_questions_in_the_models_chat_template(chat_model, prompt, expected):
    task = ReasoningGymTask("chain_sum", tokenizer=chat_model, prompt=prompt)
    for copy in (task, pickle.loads(pickle.dumps(task))):
        problem = copy.problem(3)
        assert problem.prompt == expected.format(problem.metadata["question"])
    task.validate(50)


def test_the_chat_template_needs_a_folder():
    with pytest.raises(ValueError, match="the model folder as tokenizer with prompt 'chat', got None"):
        ReasoningGymTask("chain_sum", prompt="chat")


def test_the_last_number_can_be_the_answer():
    lenient, strict = (ReasoningGymTask("chain_sum", answers=answers) for answers in ("last_number", "marked"))
    problem = lenient.problem(0)
    for text, right in (
        (f"Adding up gives {problem.answer}.", True),
        (f"The answer is 1 + 1 = {problem.answer}", True),
        (f"{problem.answer} or 123456?", False),
        ("I do not know", False),
    ):
        assert lenient.grade(problem, text).correct is right
        assert not strict.grade(problem, text).correct
    lenient.validate(50)
    with pytest.raises(ValueError, match=r"answers out of .*, got 'first'"):
        ReasoningGymTask("chain_sum", answers="first")
