from __future__ import annotations

import pytest

from espo_env.grading.normalise import key, split_list, tidy
from espo_env.grading.symbolic import Equivalence, compare


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        (r"$\dfrac12$", r"\frac{1}{2}"),
        (r"\tfrac{1}2", r"\frac{1}{2}"),
        (r"\frac\pi2", r"\frac{\pi}{2}"),
        (r"\frac{\sqrt{3}}2", r"\frac{\sqrt{3}}{2}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"( 3, \frac{\pi}{2} )"),
        (r"\leftarrow", r"\leftarrow"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"10{,}000", "10,000"),
        (r"1,\!000,\!000", "1,000,000"),
        (r"5,\,-11", "5, -11"),
        (r"50\,\%", "50"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"6, 8\text{, and }10", "6, 8, 10"),
        ("1 or 2", "1, 2"),
        (r"x \geq 3.", r"x \ge 3"),
        (r"\$18", "18"),
        ("x^{2}+a_{1}", "x^2+a_1"),
    ],
)
def test_looks_are_taken_off(text, tidied):
    assert tidy(text) == tidied


def test_keys_ignore_spaces_text_commands_and_the_case_of_words():
    assert key(r"\text{Monday}") == key("monday")
    assert key(r"\text{(C)}") == key("C")
    assert key("p - q") == key("p-q")
    assert key("P") != key("p")
    assert key("xY") != key("xy")


def test_lists_are_split_outside_of_brackets():
    assert split_list(r"(-4, 27);(2, 15), \frac{1,000}{3},") == ["(-4, 27)", "(2, 15)", r"\frac{1,000}{3}"]


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"x = 5", "5"),
        ("5", "x=5"),
        (r"5 \text{ cm}", "5"),
        ("5", r"5\text{ cm}"),
        (r"5225 \text{ cubic inches}", "5225"),
        ("18 dollars", "18"),
        (r"12\text{ cm}^2", r"12 \text{ cm}^2"),
        (r"4\sqrt{2}\text{ cm}", r"4\sqrt2"),
        (r"\frac{3}{2}", r"1\frac12"),
        ("-1.5", r"-1\frac{1}{2}"),
        (r"25\%", "25"),
        (r"x \in [1,2]", "[1,2]"),
        (r"1+\sqrt{19},1-\sqrt{19}", r"1 \pm \sqrt{19}"),
        ("2,1", "1,2"),
        ("2, 1", r"\{1,2\}"),
        ("{1, 2}", r"\{1,2\}"),
        ("x=1 or x=2", "1,2"),
        ("(2,15),(-4,27)", "(-4, 27);(2, 15)"),
        ("CD=4, AB=9", "AB=9, CD=4"),
        (r"8.24\text{ mph}", r"\approx 8.24 \text{ mph}"),
        ("1,234", "1234"),
        ("100,200,300", "100,200,300"),
        (r"\text{even}", "even"),
        ("0.5,0.25", r"\frac14,\frac12"),
    ],
)
def test_equal_without_a_parser(answer, reference):
    assert compare(answer, reference) == "equal"


@pytest.mark.parametrize(
    ("answer", "reference", "reason"),
    [
        ("12+7", "19", "not_a_number"),
        ("6=7", "7", "not_a_number"),
        (r"\int_0^7 1 dx", "7", "not_a_number"),
        ("2x=10", "x=5", "not_a_number"),
        ("[7]", "7", "not_a_number"),
        (r"\{7\}", "7", "not_a_number"),
        ("14/2", "7", "unevaluated"),
        (r"\frac{14}{2}", "7", "unevaluated"),
        ("(3+4, 5)", "(7, 5)", "not_a_number"),
        ("y=5", "x=5", "different"),
        ("0.333333", "1/3", "different"),
        ("1,2", "(1,2)", "different"),
        ("(1,2)", "1,2", "different"),
        (r"\{1,2\}", "(1,2)", "different"),
        ("[1,2)", "(1,2)", "different"),
        ("(2,1)", "(1,2)", "different"),
        ("1,2,3", "1,2", "different"),
        ("1,1", "1,2", "different"),
        (r"\sqrt{2}, \sqrt{3}", r"\sqrt{2}", "different"),
        (r"\{\sqrt{2}\}", r"\sqrt{2}", "different"),
        (r"5\text{ m}", r"5\text{ cm}", "different"),
        ("5 kg", "5 cm", "different"),
        ("40 red, 60 blue", "40 red, 50 blue", "different"),
        (r"\text{odd}", r"\text{even}", "different"),
        ("cab", "abc", "different"),  # words, not products of letters
        (r"\forall x", r"\exists x", "different"),
        ("1011", "1011_2", "different"),
        ("1011_3", "1011_2", "different"),
        (r"\lim_{x \in 0} \pi", r"\pi", "different"),
        (r"\sum_{i}^{2} \pi", r"2\pi", "unevaluated"),
        (r"4!\pi", r"24\pi", "unevaluated"),
        (r"\frac{d}{dx}x^2", "2x", "unevaluated"),
    ],
)
def test_wrong_without_a_parser(answer, reference, reason):
    assert compare(answer, reference) == reason


@pytest.mark.parametrize(
    ("answer", "reference", "left"),
    [
        ("x(x+1)", "$x^2+x$", Equivalence(("x^2+x",), ("x(x+1)",))),
        (r"y = 1+2x", "y=2x+1", Equivalence(("2x+1",), ("1+2x",))),
        ("2x-y+1=0", "y=2x+1", Equivalence(("y=2x+1",), ("2x-y+1=0",))),
        (r"(7, \pi/2)", r"(7, \frac{\pi}{2})", Equivalence((r"\frac{\pi}{2}",), (r"\pi/2",))),
        (r"\sqrt8, 3", r"3, 2\sqrt2", Equivalence((r"2\sqrt{2}",), (r"\sqrt{8}",), ordered=False)),
    ],
)
def test_what_is_left_for_the_parser(answer, reference, left):
    assert compare(answer, reference) == left
