from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_env.grading import Grade, default_pool, grade
from espo_env.grading.extraction import MAX_ANSWER_CHARS
from espo_env.grading.numeric import MAX_EXPONENT, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18),
        ("-18", -18),
        ("+18", 18),
        ("- 18", -18),
        ("\u221218", -18),  # the typographic minus sign
        ("018", 18),
        ("18.", 18),
        ("18.0", 18),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("1,234", 1234),
        ("1,234,567.5", Fraction(2469135, 2)),
        (r"10{,}000", 10000),
        (r"10,\!000", 10000),
        (r"10\,000", 10000),
        ("$18", 18),
        (r"\$1,000.00", 1000),
        ("-$5", -5),
        ("$18$", 18),
        (r"$\$18$", 18),
        (r"\(18\)", 18),
        (r"$\frac{1}{2}$.", Fraction(1, 2)),
        ("40%", 40),
        (r"40\%", 40),
        ("1e3", 1000),
        ("1.5E-3", Fraction(3, 2000)),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4", Fraction(-3, 4)),
        ("6/8", Fraction(3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"\dfrac{-3}{4}", Fraction(-3, 4)),
        (r"-\tfrac{3}{-4}", Fraction(3, 4)),
        (r"\frac34", Fraction(3, 4)),
        (r"\frac3{14}", Fraction(3, 14)),
        (r"\frac{1,000}{3}", Fraction(1000, 3)),
    ],
)
def test_number_literals_are_read_exactly(text, value):
    number = parse_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "12+7", "6=7", "x", "2^3", "2**3", "5!", "(2)", "[7]", "{7", "7}", r"\sqrt{4}", r"\int_0^7 1 dx"),
        *("1 2", "1,23", "1,2345", "12,34", "1.2.3", "--5", "0x10", "1_000", "18 dollars", ".", "-", "$", "%"),
        *("1/0", "0/0", r"\frac{1}{0}", r"\frac{1}{2+3}", "1//2", "1/2/3", "1.5/2", "1e5/3"),
        *("nan", "inf", "Infinity", "1e", "e5", "1e9999999999", "1e401", "1e-401"),
        *("\u0663", "\uff11\uff18", "\u00b2", "\u00bd"),  # digits of other scripts, a superscript, one half
    ],
)
def test_everything_else_is_no_number(text):
    assert parse_number(text) is None


def test_length_and_exponent_are_bounded():
    assert parse_number("9" * MAX_ANSWER_CHARS) == (10**MAX_ANSWER_CHARS - 1, False)
    assert parse_number("9" * (MAX_ANSWER_CHARS + 1)) is None
    assert parse_number(f"1e{MAX_EXPONENT}") == (10**MAX_EXPONENT, False)


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6), st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_written_numbers_come_back(numerator, denominator, decimals):
    assert parse_number(f"{numerator:,}") == (numerator, False)
    assert parse_number(f"{numerator}/{denominator}") == (Fraction(numerator, denominator), True)
    assert parse_number(rf"\frac{{{numerator}}}{{{denominator}}}") == (Fraction(numerator, denominator), True)
    shifted = Fraction(numerator, 10**decimals)
    sign, digits = "-" * (numerator < 0), str(abs(numerator)).rjust(decimals + 1, "0")
    written = f"{sign}{digits[: len(digits) - decimals]}.{digits[len(digits) - decimals :]}"
    assert parse_number(written) == (shifted, False)


@pytest.mark.parametrize(
    ("response", "reference", "expected"),
    [
        (r"\boxed{19}", "19", Grade(True, "19", "equal")),
        (r"\boxed{\frac{1}{2}}", "0.5", Grade(True, r"\frac{1}{2}", "equal")),
        (r"\boxed{2/4}", "1/2", Grade(True, "2/4", "equal")),
        ("#### 1,000", "1000", Grade(True, "1,000", "equal")),
        ("Answer: 25", "025", Grade(True, "25", "equal")),
        (r"\boxed{20}", "19", Grade(False, "20", "different")),
        (r"\boxed{12+7}", "19", Grade(False, "12+7", "not_a_number")),
        (r"\boxed{6=7}", "7", Grade(False, "6=7", "not_a_number")),
        (r"\boxed{\int_0^7 1 dx}", "7", Grade(False, r"\int_0^7 1 dx", "not_a_number")),
        (r"\boxed{38/2}", "19", Grade(False, "38/2", "unevaluated")),
        (r"\boxed{38/2}", "38/2", Grade(True, "38/2", "equal")),
        (r"\boxed{0.3333}", "1/3", Grade(False, "0.3333", "different")),
        ("I think 19", "19", Grade(False, None, "no_answer")),
        (rf"\boxed{{{'9' * 401}}}", "19", Grade(False, "9" * 400, "too_long")),
    ],
)
def test_grades_numeric_answers(response, reference, expected):
    assert grade(response, reference) == expected


@pytest.mark.parametrize("reference", ["", "x+1", "12+7", "1e999999999"])
def test_a_reference_that_is_no_number_is_the_task_authors_error(reference):
    with pytest.raises(ValueError, match="expected a number as the reference"):
        grade(r"\boxed{7}", reference)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'numeric' or 'symbolic', got 'latex'"):
        grade("7", "7", kind="latex")


@given(st.text(max_size=300), st.sampled_from(["7", "1/2", "-0.5"]))
@settings(max_examples=300, deadline=None)
def test_never_raises_whatever_the_response_says(text, reference):
    for response in (text, rf"\boxed{{{text}}}", f"#### {text}", f"Answer: {text}"):
        grade(response, reference)


@pytest.mark.parametrize("kind", ["numeric", "symbolic"])
@pytest.mark.parametrize("reference", [None, 7, 27.0])
def test_a_missing_reference_is_named(kind, reference):
    with pytest.raises(TypeError, match=f"expected a reference answer as a string, got {reference}"):
        grade(r"\boxed{7}", reference, kind)
    with pytest.raises(TypeError, match=f"expected a reference answer as a string, got {reference}"):
        default_pool().submit(r"\boxed{7}", reference, kind)
