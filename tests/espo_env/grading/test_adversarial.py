"""Inputs that are meant to fool, hang, crash or exploit the grader."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_env.grading import Grade, GraderPool

pytest.importorskip("math_verify", reason="needs the extra espo[math]")

MARK = "@MARK@"  # stands for the path of a file that must not come into being
OPEN = f"open('{MARK}','w').write('x')"
SYSTEM = f"__import__('os').system('touch {MARK}')"

CODE = [
    OPEN,
    SYSTEM,
    f"(lambda: {OPEN})()",
    f"[{OPEN} for x in [1]][0]",
    f"x^2+\\sqrt{{2}}+{SYSTEM}",
    f'eval("{SYSTEM}")',
    f"exec(compile(\"{OPEN}\",'','exec'))",
    f"\\text{{{SYSTEM}}}",
    f"\\operatorname{{{SYSTEM}}}(x)",
    f"\\frac{{{SYSTEM}}}{{2}}",
    f"\\sqrt[{OPEN}]{{2}}",
    f"x_{{{OPEN}}}",
    f"\\begin{{pmatrix}}{OPEN}\\end{{pmatrix}}",
    f"\\{{{OPEN}, 2\\}}",
    f"({OPEN}, {OPEN})",
    f"().__class__.__base__.__subclasses__()[0]('{MARK}')",
    f"f'{{{OPEN}}}'",
    f"\\input{{|touch {MARK}}}",
    f"\\immediate\\write18{{touch {MARK}}}",
    f"\\openout1={MARK} \\write1{{x}}",
    f"$(touch {MARK})",
    f"`touch {MARK}`",
    f"7; touch {MARK}",
    f"7\n{SYSTEM}\n7",
    f'{{"verdict": "equal"}}\n{{"ready": true}} {OPEN}',
    f"cos\nsystem\n(S'touch {MARK}'\ntR.",  # a pickle
    f"!!python/object/apply:os.system ['touch {MARK}']",
    f"Symbol('x').__init__.__globals__['__builtins__']['open']('{MARK}','w')",
    f"S({OPEN!r})",
    f"{{{{7*7}}}}{{% {SYSTEM} %}}",
]
BOMBS = [
    "9^{9^{9^{9^{9}}}}",
    "9^9^9^9",
    "9**9**9**9",
    "((((10^{10})^{10})^{10})^{10})^{10}",
    "99999999!",
    "(99999999!)!",
    "x^{99999999}!",
    "\\binom{10^9}{10^8} x",
    "\\frac{1}{10^{10^{10}}}+x",
    "2^{2^{2^{2^{2^{2}}}}}+\\sqrt{2}",
    "(a+b+c+d+e+f+g+h)^{60}",
    "(x+y+z+w+u+v)^{200}-1",
    "(x+1)^{10000}(x-1)^{10000}",
    "\\sin(10^{10^{9}})",
    "\\tan(\\tan(\\tan(\\tan(\\tan(\\tan(x))))))^{99}",
    "\\sqrt{\\sqrt{\\sqrt{\\sqrt{\\sqrt{2+\\sqrt{3+\\sqrt{5+\\sqrt{7}}}}}}}}",
    "\\log_{2}{(3^{10^{8}})}",
    "\\sum_{i=1}^{10^{12}} i",
    "\\prod_{i=1}^{10^{9}} x^i",
    "\\int_0^1 e^{e^{e^x}} \\sin(\\sin(x)) dx",
    "\\lim_{x\\to 0} \\frac{\\sin(\\tan(\\sin(x)))}{x^{9}}",
    "x^{17}+x^{13}-x^7+3=x^{11}\\sin(x)+e^x",
    "1e999999999",
    "1e-999999999",
    "0." + "0" * 390 + "1",
    "9" * 400,
    "\\frac{" + "9" * 190 + "}{" + "7" * 190 + "}+x",
    "x" + "+x" * 190,
    "x" * 399,
    "\\pm" * 130 + "1",
    ",".join(["\\sqrt{2}"] * 44),
    "\\{" + ",".join(f"x^{i}" for i in range(60)) + "\\}",
    "\\begin{pmatrix}" + "&".join("1" * 60) + "\\end{pmatrix}",
]
NESTED = [
    "(" * 200 + "7" + ")" * 199,
    "{" * 190 + "7" + "}" * 190,
    "[" * 400,
    "\\frac{" * 19 + "7" + "}{2}" * 19,
    "\\sqrt{" * 20 + "7" + "}" * 20,
    "\\left(" * 19 + "7" + "\\right)" * 19,
    "-" * 399 + "7",
    "\\begin{matrix}" * 20,
    "x" + "^{x" * 20 + "}" * 20,
]
BROKEN = [
    "",
    " ",
    "\x00",
    "7\x00",
    "\x007\x00",
    "\\",
    "\\\\",
    "\\frac",
    "\\frac{",
    "\\frac{1}",
    "\\frac{1}{0}",
    "\\sqrt{}",
    "\\sqrt[0]{2}",
    "\\left(",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "\\boxed{\\boxed{",
    "$$$$$",
    "^_^",
    "{}{}{}",
    "}}}}{{{{",
    "&&&\\\\&&",
    "%" * 300,
    "\ud800",  # half of a surrogate pair
    "\ufeff7",
    "\u202e7",  # right to left
    "\u0667",  # seven in another script
    "\uff17",
    "\U0001d7d5",
    "\u2166",
    "\u00b7" * 100,
    "\u221e",
    "nan",
    "inf",
    "None",
    "True",
    "\t\n\r\v\f7",
]
CHEATS = [
    "3+4",
    "6=7",
    "7=7=7",
    "\\int_0^7 1 dx",
    "[7]",
    "\\{7\\}",
    "14/2",
    "7!/6!",
    "8-1",
    "\\sqrt{49}",
    "7,7",
    "7 \\text{ or } 8",
]
CHEATS_SYMBOLIC = [
    "x=x",
    "0=0",
    "\\frac{0}{0}",
    "\\infty-\\infty",
    "x^2+1.4142136",
    "x^2, \\sqrt{2}",
    "\\emptyset",
    "x^2+2-2+\\sqrt{2}",
]
HUGE = [
    "9" * 10**6,
    "\\boxed{" * 10**5,
    "\\boxed{" + "9" * 10**6 + "}",
    "{" * 10**6,
    "\\boxed{7" + "}" * 10**6,
    "#" * 10**6,
    "#### " * 10**5,
    "Answer:" * 10**5,
    "Answer: " + " " * 10**6,
    "\n" * 10**6 + "Answer:",
    "answer is " + "a" * 10**6,
    "\\" * 10**6,
    "\x00" * 10**6,
    "\U0001f600" * 10**6,
]
REFERENCES = [("7", "numeric"), ("7", "symbolic"), ("x^2+\\sqrt{2}", "symbolic"), ("(1,\\frac{\\pi}{2})", "symbolic")]


@pytest.fixture(scope="module")
def pool():
    with GraderPool() as pool:
        yield pool


def grade_all(pool: GraderPool, responses: list[str], references=REFERENCES) -> list[tuple[str, str, Grade]]:
    futures = [(r, ref, pool.submit(r, ref, kind)) for r in responses for ref, kind in references]
    return [(response, reference, future.result(timeout=120)) for response, reference, future in futures]


def assert_alive(pool: GraderPool) -> None:
    assert pool.grade(r"\boxed{\sqrt{2}+x^2}", "x^2+\\sqrt{2}") == Grade(True, r"\sqrt{2}+x^2", "equal")


def test_there_are_enough_of_them():
    assert len({*CODE, *BOMBS, *NESTED, *BROKEN, *CHEATS, *CHEATS_SYMBOLIC, *HUGE}) > 100


def test_nothing_is_executed(pool, tmp_path):
    mark = tmp_path / "mark"
    for _, _, verdict in grade_all(pool, [rf"\boxed{{{text.replace(MARK, str(mark))}}}" for text in CODE]):
        assert not verdict.correct
    assert not mark.exists()
    assert pool.counts["crash"] == 0
    assert_alive(pool)


def test_bombs_are_answered_and_the_pool_lives_on(pool):
    verdicts = grade_all(pool, [rf"\boxed{{{text}}}" for text in (*BOMBS, *NESTED)])
    assert not any(verdict.correct for _, _, verdict in verdicts)
    assert {verdict.reason for *_, verdict in verdicts} <= {
        *("different", "not_a_number", "unevaluated", "too_deep", "too_long", "unparsable", "timeout", "memory"),
    }
    assert pool.counts["timeout"] >= 5
    assert_alive(pool)


def test_broken_text_is_answered(pool):
    verdicts = grade_all(pool, [form.format(text) for text in BROKEN for form in (r"\boxed{{{}}}", "Answer: {}")])
    assert [response for response, _, verdict in verdicts if verdict.correct] == [
        *[r"\boxed{" + "\t\n\r\v\f7}"] * 2,
        *["Answer: \t\n\r\v\f7"] * 2,
    ]
    assert_alive(pool)


def test_huge_responses_are_answered(pool):
    assert not any(verdict.correct for *_, verdict in grade_all(pool, HUGE))


@pytest.mark.parametrize("text", CHEATS)
def test_a_number_must_be_worked_out(pool, text):
    for _, _, verdict in grade_all(pool, [rf"\boxed{{{text}}}"], [("7", "numeric"), ("7", "symbolic")]):
        assert not verdict.correct


@pytest.mark.parametrize("text", CHEATS_SYMBOLIC)
def test_an_expression_must_be_the_right_one(pool, text):
    assert not pool.grade(rf"\boxed{{{text}}}", "x^2+\\sqrt{2}").correct


FRAGMENTS = st.sampled_from(
    [
        *"0123456789xyeiEA+-*/^_=<>!,;:.()[]{}|&%$#~ '\"",
        *(
            r"\frac",
            r"\sqrt",
            r"\pi",
            r"\left",
            r"\right",
            r"\{",
            r"\}",
            r"\\",
            r"\text{a}",
            r"\pm",
            r"\cdot",
            r"\infty",
        ),
        *(
            r"\cup",
            r"\in",
            r"\le",
            r"\begin{pmatrix}",
            r"\end{pmatrix}",
            r"\sin",
            r"\log",
            r"\int",
            r"\sum",
            r"\boxed{",
        ),
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(FRAGMENTS, max_size=25).map("".join)))
@settings(max_examples=150, deadline=None)
def test_never_raises(pool, text):
    for _, reference, verdict in grade_all(pool, [rf"\boxed{{{text}}}", text, f"#### {text}"]):
        assert verdict.correct == (verdict.reason == "equal"), (text, reference)
