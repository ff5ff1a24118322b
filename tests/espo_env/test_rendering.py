from __future__ import annotations

import math
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espo_env import StopReason, Tokenizer, Trajectory, render_ansi, render_html
from espo_env.escapes import visible
from espo_env.tasks import Problem

TOKENIZER = Tokenizer.from_symbols('ab<>&"\n')
VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Refuses unbalanced tags, scripts, and whatever is loaded from elsewhere; collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.titles: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe", "img")
        for name, value in attrs:
            assert name not in ("src", "href")
            assert not name.startswith("on")
            assert "url(" not in (value or "")
            if name == "title":
                self.titles.append(value)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def check(page):
    assert page.startswith("<!DOCTYPE html>")
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert "@import" not in page
    for piece in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + piece.split("</svg>")[0] + "</svg>")
    assert "nan" not in page.split("</style>")[1].replace("nano", "")
    return checker


def floats(values):
    return np.array(values, np.float32)


STOPPED = Trajectory(
    prompt_tokens=np.array(TOKENIZER.encode("ab"), np.int32),
    response_tokens=np.array(TOKENIZER.encode("a<b"), np.int32),
    stop_reason=StopReason.REGRET,
    reward=-1.0,
    regrets=floats([0.0, 0.5, 6.0]),
    values=floats([0.9, 0.8, 0.1]),
    z=floats([-0.1, 0.2, 0.8]),
    thresholds=floats([0.9, 0.8, 0.2]),
    mark=2,
    problem=Problem("ab", "<b>&"),
)


def test_a_page_shows_what_a_reader_asks_for():
    page = render_html([STOPPED], TOKENIZER, title="Walk & <b>talk</b>")
    checker = check(page)
    for words in ("Walk & <b>talk</b>", "regret", "reward -1", "stopped at step 2", "<b>&", "3 tokens", "threshold"):
        assert words in checker.text
    assert checker.titles[2] == "step 2 · regret 6 · value 0.1 · z 0.8 · threshold 0.2"
    assert checker.counts["svg"] == 1
    assert checker.counts["circle"] == 1
    # The costliest token is the reddest.
    colours = [float(part.split(")")[0]) for part in page.split("</header>")[1].split("background:rgba(225,70,30,")[1:]]
    assert len(colours) == 2
    assert colours[0] < colours[1] <= 1


def test_a_mark_that_ran_on_looks_different_from_a_stop():
    marked = replace(STOPPED, stop_reason=StopReason.EOS, mark=1, reward=1.0, correct=True)
    checker = check(render_html([marked], TOKENIZER))
    assert "would stop at step 1" in checker.text
    assert "right" in checker.text
    assert "stopped at" not in checker.text


def test_columns_that_nobody_measured_are_left_out():
    bare = Trajectory(STOPPED.prompt_tokens, STOPPED.response_tokens, StopReason.LENGTH)
    checker = check(render_html([bare], TOKENIZER))
    assert "svg" not in checker.counts
    assert checker.titles[0] == "step 0"
    assert "reference" not in checker.text
    assert render_ansi(bare, TOKENIZER) == "prompt    ab\nresponse  a<b\noutcome   length · 3 tokens · reward 0\n"


def test_regrets_alone_colour_the_tokens():
    page = render_html([replace(STOPPED, z=floats([]), thresholds=floats([]), mark=-1)], TOKENIZER)
    assert "svg" not in check(page).counts
    assert "background:rgba" in page.split("</header>")[1]


def test_text_for_a_terminal():
    text = render_ansi(STOPPED, TOKENIZER)
    assert text.splitlines()[0] == "prompt    ab"
    assert "◀ stopped" in text
    assert "last      step 2 · regret 6 · value 0.1 · z 0.8 · threshold 0.2" in text
    assert "outcome   regret · 3 tokens · reward -1 · stopped at step 2" in text
    assert "answer    <b>&" in text
    assert "running" in render_ansi(STOPPED, TOKENIZER, running=True)


@pytest.mark.parametrize("trajectories", [[], [replace(STOPPED, response_tokens=np.zeros(0, np.int32), mark=-1)]])
def test_nothing_to_show_is_still_a_page(trajectories):
    for trajectory in trajectories:
        for name in ("regrets", "values", "z", "thresholds"):
            setattr(trajectory, name, floats([]))
        assert "0 tokens" in render_ansi(trajectory, TOKENIZER)
    check(render_html(iter(trajectories), TOKENIZER))


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 30),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
    threshold=st.sampled_from([0.0, 0.3, 1e6, math.inf]),
    reason=st.sampled_from(list(StopReason)),
)
def test_any_numbers_make_a_valid_page(length, seed, scale, threshold, reason):
    rng = np.random.default_rng(seed)
    trajectory = Trajectory(
        rng.integers(0, 8, size=3).astype(np.int32),
        rng.integers(0, 8, size=length).astype(np.int32),
        reason,
        regrets=floats(scale * rng.exponential(size=length)),
        values=floats(rng.normal(size=length)),
        z=floats(scale * rng.normal(size=length)),
        thresholds=np.full(length, threshold, np.float32),
        mark=int(rng.integers(-1, length)),
    )
    check(render_html([trajectory], TOKENIZER))
    assert "z/thresh" in render_ansi(trajectory, TOKENIZER)


ATTACKS = {
    "window title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJmIC8K\x1b\\",
    "clear screen": "\x1b[2J\x1b[H",
    "C1 control sequence": "\x9b2J",
    "line taken back": "wrong\rright",
    "bell and backspace": "\x07\x08",
    "reading direction": "\u202eright\u2066",
    "half a surrogate pair": "\ud800",
}


def obeyed(text):
    """What is left for a terminal to act on, beside tabs, line feeds and the colours of the renderer."""
    left = re.sub(r"\x1b\[[0-9;]*m", "", text).translate(dict.fromkeys(map(ord, "\n\t")))
    return [c for c in left if unicodedata.category(c) in ("Cc", "Cs") or c in "\u202e\u2066"]


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_a_terminal_would_act_on_is_written_out(attack):
    assert obeyed(visible(attack)) == []
    assert visible(visible(attack)) == visible(attack)
    symbols = "".join(dict.fromkeys(attack))
    if "\ud800" not in symbols:  # no tokenizer has it; a data set's answer may
        tokenizer = Tokenizer.from_symbols(symbols)
        tokens = np.array(tokenizer.encode(attack), np.int32)
        hostile = Trajectory(tokens, tokens, StopReason.EOS, problem=Problem(attack, attack))
    else:
        tokenizer, hostile = TOKENIZER, replace(STOPPED, problem=Problem(attack, attack))
    text = render_ansi(hostile, tokenizer)
    assert obeyed(text) == []
    assert ascii(attack[0])[1:-1] in text or attack.startswith("wrong")
    page = render_html([hostile], tokenizer, title=attack)
    assert obeyed(page) == []
    page.encode("utf-8")


def test_plain_text_stays_as_it_is():
    text = "x² + ½ = 5\tnaïve\n日本語 \N{WOMAN}\u200d\N{PERSONAL COMPUTER} \\boxed{7}"
    assert visible(text) == text


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["regrets", "values", "z", "thresholds", "logprobs"])
def test_numbers_that_are_not_finite_are_shown(column, number):
    values = getattr(STOPPED, column).copy() if column != "logprobs" else floats([0.0, 0.0, 0.0])
    values[2] = number
    broken = replace(STOPPED, **{column: values})
    assert f"{number:.3g}" in render_ansi(broken, TOKENIZER)
    page = render_html([broken], TOKENIZER)
    ElementTree.fromstring("<svg" + page.split("<svg")[1].split("</svg>")[0] + "</svg>")
    numbers = re.findall(r' (?:cx|cy|x|y|height|width|d|style)="([^"]*)"', page)
    assert not [n for n in numbers if "nan" in n or "inf" in n]
