"""The page of responses in a real browser: what it shows, what one can do with it, and what others cannot."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from browser import browser  # noqa: F401 (fixture)
from written_responses import TASK, one_of_each, response

from espo_algo import ESPOConfig
from espo_algo.evaluation import responses_page
from espo_algo.evaluation.responses_page import PageRun, page_data, render_page, write_page
from espo_algo.evaluation.snapshots import take_snapshot
from espo_env.tasks import Problem
from espo_env.tokenizer import Tokenizer
from espo_env.types import StopReason


def snapshot(episodes, iteration=2, tokenizer=TASK.tokenizer, **options):
    return take_snapshot(episodes, ESPOConfig(), tokenizer, 24, iteration, **options)


def record(iteration, **numbers):
    names = ("stop_rate", "false_positive_rate", "response_length", "tokens", "beta", "entropy", "vf_explained_var")
    return {"iteration": iteration, "accuracy": 0.5 + iteration / 100} | dict.fromkeys(names, np.nan) | numbers


RUN = PageRun("runs/first", [record(1), record(2), record(3)], [snapshot([response(9)], 1), snapshot(one_of_each())])
OTHER = PageRun(
    "runs/second",
    [record(2, accuracy=0.875)],
    [snapshot([response(0, [0.0] * 40, correct=False), response(8, correct=True)])],
)


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of runs; its errors fail the test, and so does everything that it asks of anybody."""
    pages = []

    def open_page(runs=(RUN,), title="demo", at="", width=1200, scheme="light"):
        path = write_page(runs, tmp_path / "page.html", title)
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.asked, page.errors = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{path.as_uri()}{at}")
        pages.append((page, path.as_uri()))
        return page

    yield open_page
    for page, url in pages:
        assert page.errors == []
        assert {asked.split("#")[0] for asked in page.asked} == {url}
        page.close()


def choose(page, kind):
    page.locator(f"#show label:has([value={kind}])").click()


def shown(page):
    return page.locator("article").count()


def readout(page, name):
    """A number of the first response's chosen token."""
    text = page.locator(".readout").first.locator("span").all_inner_texts()
    return next(part.removeprefix(f"{name} ") for part in text if part.startswith(f"{name} "))


def test_the_reason_is_told_in_words_and_numbers(opened):
    page = opened()
    why = page.locator("article .why").first.inner_text()
    assert why == "stopped at token 9: z 0.40 > beta 0.20 x max(V 0.10, floor 0.20) = 0.040"
    assert [readout(page, name) for name in ("token", "regret", "z", "threshold", "V", "TD error", "advantage")] == [
        '9 "1"',
        "4",
        "0.4",
        "0.04",
        "0.1",
        "-0.1",
        "-0.1",
    ]


def test_a_click_on_a_kind_shows_that_kind_alone(opened):
    page = opened()
    counts = dict(zip(("all", "stopped", "marked", "wrong-stop", "right", "wrong", "cut"), (8, 2, 2, 1, 3, 2, 1)))  # noqa: B905
    for kind, count in counts.items():
        assert page.locator(f"#show label:has([value={kind}]) b").inner_text() == str(count)
        choose(page, kind)
        assert shown(page) == count
    choose(page, "wrong-stop")
    assert "ran on, and it ended right, so a stop would have been wrong" in page.locator("article .why").inner_text()
    assert page.locator("#count").inner_text() == "1 of 8 recorded responses, out of 8 in the batch"
    page.reload()
    assert shown(page) == 1  # it stands in the address
    assert page.locator(".problem h2 span").inner_text() == "1 of 2 samples · 1 right · 2 marked"


def test_order_and_groups(opened):
    page = opened()
    headings = page.locator(".problem h2")
    assert [text.split()[1] for text in headings.all_inner_texts()] == ["0", "3", "1", "2"]  # stopped first
    page.select_option("#sort", "problem")
    assert [text.split()[1] for text in headings.all_inner_texts()] == ["0", "1", "2", "3"]
    page.select_option("#sort", "longest")
    assert [text.split()[1] for text in headings.all_inner_texts()] == ["2", "0", "1", "3"]
    assert "20 tokens" in page.locator("article .facts").first.inner_text()
    page.select_option("#sort", "wrong-stop")
    assert "wrong stop" in page.locator("article .facts").first.inner_text()
    page.uncheck("#together")
    page.select_option("#sort", "shortest")
    lengths = [int(re.search(r"(\d+) tokens", text)[1]) for text in page.locator("article .facts").all_inner_texts()]
    assert lengths == [5, 7, 9, 9, 10, 12, 12, 20]
    assert headings.count() == 8


def test_iterations_can_be_chosen_and_rates_follow(opened):
    page = opened()
    accuracy = page.locator(".rate").first.locator("p")
    assert page.locator("#snapshot").input_value() == "iteration 2"
    assert accuracy.inner_text() == "52.0 %"
    page.click("#earlier")
    assert (page.locator("#snapshot").input_value(), accuracy.inner_text(), shown(page)) == ("iteration 1", "51.0 %", 1)
    assert page.locator("#earlier").is_disabled()
    page.select_option("#snapshot", "iteration 2")
    assert shown(page) == 8
    assert page.locator("#run-field").is_hidden()


def test_two_runs_stand_side_by_side(opened):
    page = opened((RUN, OTHER))
    assert page.locator("#other").input_value() == "1"
    assert [text.split()[1] for text in page.locator(".problem h2").all_inner_texts()] == ["0", "3", "1", "2", "8"]
    first = page.locator(".group").first
    assert first.locator(".own h3").inner_text() == "runs/first"
    assert first.locator(".own article").count() == 2
    assert "40 tokens" in first.locator(".beside .facts").inner_text()
    assert page.locator(".group .beside .none").first.inner_text() == "not recorded in this snapshot"
    assert page.locator(".rate").first.locator("p").all_inner_texts() == ["52.0 %", "87.5 %"]
    left, right = (first.locator(side).bounding_box() for side in (".own", ".beside"))
    assert left["x"] + left["width"] <= right["x"] + 1
    choose(page, "wrong")
    assert page.locator(".group").count() == 3  # with a response of that kind in either run
    page.select_option("#run", "1")
    assert page.locator("#other").input_value() == "0"  # they change places
    page.select_option("#other", "-1")
    choose(page, "all")
    assert shown(page) == 2


def test_tokens_and_charts_are_read_with_keys_and_pointer(opened):
    page = opened()
    page.locator(".tokens").first.focus()
    page.keyboard.press("ArrowLeft")
    assert (readout(page, "token"), readout(page, "z")) == ('8 "0"', "0")
    page.keyboard.press("Home")
    assert readout(page, "token").startswith("1 ")
    page.locator(".tokens").first.locator(".t").nth(3).hover()
    assert readout(page, "token").startswith("4 ")
    chart = page.locator("figure svg").first
    box = chart.bounding_box()
    chart.hover(position={"x": box["width"] - 50, "y": 60})
    assert readout(page, "token").startswith("9 ")
    assert float(page.locator("figure .cursor").first.get_attribute("x1")) > box["width"] / 2
    labels = chart.locator("text").all_text_contents()
    assert {"0.2", "0.4", "1", "9"} <= {*labels}  # ticks of z and of tokens


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize("at", ["#other=-1", "#other=1"])
def test_nothing_scrolls_sideways_on_a_phone(opened, width, at):
    wide = snapshot([response(0, np.linspace(0, 3, 700), reason=StopReason.LENGTH), *one_of_each()[2:]])
    page = opened((PageRun("runs/" + "long-name-" * 8, RUN.records, [wide]), OTHER), "a-long-title-" * 6, at, width)
    page.locator("figure").first.scroll_into_view_if_needed()
    page.locator("figure svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure svg").first.bounding_box()["width"] > 0.7 * width


def test_hostile_text_stays_text(opened):
    text = "</script><script>window.ran=1</script><img src=x onerror='window.ran=2'>{{js}}\u202e\x1b[2J"
    tokenizer = Tokenizer.from_bytes()
    prompt = np.array(tokenizer.encode(text.replace("\u202e", "").replace("\x1b", "")), np.int32)
    hostile = response(0, np.zeros(len(prompt)), prompt_tokens=prompt, response_tokens=prompt, correct=True)
    hostile.problem = Problem("", text, index=0)
    hostile.grade = type(hostile.grade)(True, text, text)
    run = PageRun(text, [record(2)], [snapshot([hostile], tokenizer=tokenizer, label=None)])
    page = opened((run, run), text, "#run=x&other=1&__proto__=1&show=%3Cimg%20src=x%20onerror=alert(1)%3E")
    assert page.evaluate("window.ran") is None
    assert page.locator("img, main script").count() == 0
    told = page.locator("h1").inner_text()
    assert told == text.replace("\u202e", r"\u202e").replace("\x1b", r"\x1b")
    assert told in page.locator("dd .text").nth(1).inner_text()
    assert "".join(page.locator(".tokens").first.locator(".t").all_inner_texts()).startswith("</script><script>")
    # And if something did come to stand in the page, it would not run.
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran=3'}))"
    )
    assert page.evaluate("window.ran") is None


def test_a_huge_response_is_cut_and_said_so(opened):
    page = opened((PageRun("run", [record(2)], [snapshot([response(0, np.zeros(9000), mark=5000, correct=False)])]),))
    assert page.locator(".t").count() == 600
    assert page.locator(".tokens .gap").all_inner_texts() == [
        "[tokens 201 to 4900 of 9000 left out]",
        "[tokens 5101 to 8800 of 9000 left out]",
    ]
    assert readout(page, "token").startswith("5001 ")
    assert "9,000 tokens" in page.locator(".facts").inner_text()


def test_snapshots_beyond_a_pages_size_are_left_out(monkeypatch):
    monkeypatch.setattr(responses_page, "_MOST_BYTES", 2 * len(json.dumps(RUN.snapshots[1])))
    run, _ = page_data([RUN, OTHER], "t")["runs"]
    assert ([s["iteration"] for s in run["snapshots"]], run["left_out"]) == ([2], 1)


def test_a_run_that_has_only_begun(opened):
    page = opened((PageRun("run"),))
    assert page.locator("#list").inner_text() == "No responses yet."
    assert "not measured" in page.locator(".rate").first.inner_text()


def test_dark_where_the_reader_wants_it_dark(opened):
    colours = [
        opened(scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor")
        for scheme in ("light", "dark")
    ]
    light, dark = (sum(map(int, re.findall(r"\d+", colour))) for colour in colours)
    assert light > 600
    assert dark < 150


def test_every_control_has_a_name(opened):
    names = opened((RUN, OTHER)).evaluate(
        "[...document.querySelectorAll('select, input, button')].map(e => e.ariaLabel || e.labels[0]?.textContent)"
    )
    assert len(names) == 15
    assert all(names)


def test_a_long_runs_rates_are_thinned_out_but_for_those_of_snapshots():
    run = PageRun("run", [record(i) for i in range(1, 5001)], [snapshot([response()], 4321)])
    rates = page_data([run], "t")["runs"][0]["rates"]
    assert len(rates["iteration"]) == len(rates["accuracy"]) < 1100
    assert {1, 4321, 5000} <= {*rates["iteration"]}
    assert rates["beta"][0] is None


def test_the_page_is_whole_html():
    page = render_page(page_data([RUN], "a < b & c"))
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>a &lt; b &amp; c</title>" in page
    assert "{{" not in page
    assert not re.search(r"""(src|href)=|url\(|@import|https?:(?!//www\.w3\.org/2000/svg)""", page)
