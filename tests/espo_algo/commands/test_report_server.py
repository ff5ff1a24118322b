"""``espo report --serve``: a running run is followed, by this machine's browsers alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from threading import Thread

import pytest
from browser import browser  # noqa: F401 (fixture)
from typer.testing import CliRunner
from written_responses import TASK, one_of_each, response

from espo_algo import ESPOConfig
from espo_algo.commands.cli import app
from espo_algo.commands.report_server import ReportServer
from espo_algo.commands.run_log import LOG
from espo_algo.commands.run_report import RESPONSES, report_data, report_sources
from espo_algo.evaluation.response_recorder import ResponseRecorder


def train(run, iteration, episodes):
    """What training leaves behind of an iteration."""
    result = {
        "training_iteration": iteration,
        "beta": 0.2,
        "warmup_done": 1.0,
        "env_runners": {
            "num_env_steps_sampled_lifetime": 100 * iteration,
            "accuracy": iteration / 100,
            "response_length": {"mean": 10},
            "early_stopping": {"stop_rate": 0.25, "false_positive_rate": None},
        },
        "learners": {"default_policy": {"entropy": 0.1, "vf_explained_var": 0.5}},
        "timers": {"env_runner_sampling_timer": 1.0, "learner_update_timer": 1.0},
    }
    with (run / LOG).open("a") as file:
        file.write(json.dumps(result) + "\n")
    with ResponseRecorder(run / RESPONSES, 24, ESPOConfig(), TASK.tokenizer) as recorder:
        recorder.record(iteration, episodes)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def server(run):
    with ReportServer(lambda: report_data([run]), lambda: report_sources([run]), port=0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_newer_data_are_given_where_there_are_any(run, server):
    _, first = get(f"{server.url}data.json")
    version = json.loads(first)["version"]
    assert get(f"{server.url}data.json?have={version}") == (204, "")
    train(run, 1, one_of_each())
    status, second = get(f"{server.url}data.json?have={version}")
    assert (status, len(json.loads(second)["runs"][0]["snapshots"])) == (200, 1)
    status, page = get(server.url)
    assert status == 200
    assert "connect-src 'self'" in page


def test_nobody_else_is_answered(server):
    assert server.server_address[0] == "127.0.0.1"
    assert get(server.url, Host="evil.example:80")[0] == 403
    assert get(f"{server.url}data.json", Host=f"evil.example:{server.server_port}")[0] == 403
    assert get(server.url, Host=f"localhost:{server.server_port}")[0] == 200
    assert get(f"{server.url}../../etc/passwd")[0] == 404
    assert get(f"{server.url}results.jsonl")[0] == 404


def test_a_file_that_is_broken_is_named(run, server):
    (run / LOG).write_text("{broken\n")
    status, message = get(f"{server.url}data.json")
    assert status == 500
    assert f"{run / LOG}:1: expected an iteration as JSON" in message


def test_a_browser_that_goes_away_is_no_error(server, capsys):
    with socket.create_connection(server.server_address[:2]) as connection:
        connection.sendall(b"GET / HT")
    assert get(server.url)[0] == 200
    assert capsys.readouterr().err == ""


@pytest.fixture
def interruptible():
    """Python's own handler, which is not there in a process that was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_command_serves_until_it_is_interrupted(run):
    train(run, 1, one_of_each())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answers = []

    def interrupt():
        while not answers:
            with contextlib.suppress(urllib.error.URLError):
                answers.append(get(f"http://127.0.0.1:{port}/")[0])
        os.kill(os.getpid(), signal.SIGINT)

    thread = Thread(target=interrupt)
    thread.start()
    ended = CliRunner().invoke(app, ["report", str(run), "--serve", "--port", str(port)])
    thread.join()
    assert (ended.exit_code, ended.output) == (0, f"http://127.0.0.1:{port}/ (Ctrl-C ends it)\n")
    assert answers == [200]
    missing = CliRunner().invoke(app, ["report", str(run / "nowhere"), "--serve"])
    assert missing.exit_code == 1
    assert "error: expected the folder of a run, got" in missing.output


def test_the_page_follows_the_run_by_itself(run, server, browser):
    page = browser.new_page()
    page.goto(server.url)
    assert page.locator("#list").inner_text() == "No responses yet."
    train(run, 1, one_of_each())
    page.locator("article").nth(7).wait_for()
    assert page.locator(".rate p").first.inner_text() == "1.0 %"
    assert page.locator("#status").inner_text() == "follows the run"
    page.locator("#show label:has([value=right])").click()
    train(run, 2, [response(correct=True), response(correct=False)])
    page.locator("#snapshot option").nth(1).wait_for(state="attached")
    assert page.locator("#snapshot").input_value() == "iteration 2"
    assert page.locator("article").count() == 1  # the choice stays
    page.select_option("#snapshot", "iteration 1")
    train(run, 3, [response()])
    page.locator("#snapshot option").nth(2).wait_for(state="attached")
    assert page.locator("#snapshot").input_value() == "iteration 1"  # so does an older iteration
    server.shutdown()
    server.server_close()
    page.get_by_text("the server is gone").wait_for()
    page.close()
