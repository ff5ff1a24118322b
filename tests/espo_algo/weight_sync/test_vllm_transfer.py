"""vLLM's weight transfer when runners die; the processes are real. Its weights: ``test_vllm_training.py``."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import ray
from barrier_transfer import PIECES, LearnerActor, RunnerActor
from installed import needs_vllm

from espo_algo.weight_sync.vllm_sender import RunnerClient, form_group

WHOLE = ["init_weight_transfer_engine", "start_weight_update", *["update_weights"] * PIECES, "finish_weight_update"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def learners(ray_session):
    port = free_port()
    actors = [ray.remote(num_cpus=0)(LearnerActor).remote(rank, port) for rank in range(2)]
    ray.get([actor.closed.remote() for actor in actors])
    yield actors
    for actor in actors:
        ray.kill(actor)


def new_runner():
    return ray.remote(num_cpus=0)(RunnerActor).remote()


def begin(actor, **options):
    ray.get(actor.begin.remote(**options))  # a busy machine may take longer to start it than a call may take
    return actor


@pytest.fixture(scope="module")
def two_runners(ray_session):
    """These live as long as the tests: to start one is what takes the time."""
    actors = [new_runner() for _ in range(2)]
    yield actors
    for actor in actors:
        ray.kill(actor)


@pytest.fixture
def well(two_runners):
    return begin(two_runners[0])


@pytest.fixture
def other(two_runners):
    return begin(two_runners[1])


def send(learners, runners, engines, timeout=20.0, name="training", backend="barrier"):
    """What each learner answers, or raises."""
    calls = [learner.send.remote(runners, engines, timeout, name, backend) for learner in learners]
    answers = []
    for call in calls:
        try:
            answers.append(ray.get(call, timeout=60))
        except ray.exceptions.RayTaskError as error:
            answers.append(error.cause)
    return answers


@pytest.mark.faults
@pytest.mark.parametrize("dies_at", ["init_weight_transfer_engine", "update_weights"])
def test_no_learner_waits_for_one_that_has_seen_a_runner_die(learners, well, other, dies_at):
    """The first learner raised, and the others waited for it in a barrier, for half an hour at least."""
    dying = begin(new_runner(), dies_at=dies_at)
    start = time.monotonic()
    first, second = send(learners, [well, dying], ("a", dies_at))
    assert time.monotonic() - start < 60
    assert first == (None, 5)  # the algorithm restarts the runners then
    assert second == ("state", 5)
    # With other runners it works at once.
    begin(well)
    assert send(learners, [well, other], ("c", dies_at)) == [("state", 5)] * 2
    assert ray.get(well.seen.remote()) == WHOLE


@pytest.mark.faults
def test_sharded_learners_gather_to_the_end_when_a_runner_dies(learners, well):
    """The others would wait in the gathering for the first one, which has no use for the weights any more."""
    for dies_at in ("init_weight_transfer_engine", "update_weights"):
        dying = begin(new_runner(), dies_at=dies_at)
        start = time.monotonic()
        assert send(learners, [well, dying], ("s", dies_at), backend="gather") == [(None, 5), ("state", 5)]
        assert time.monotonic() - start < 60
    assert send(learners, [well], ("t",), backend="gather") == [("state", 5)] * 2
    assert ray.get(well.received.remote())[-4:] == [
        {"name": name, "sum": total}
        for name, total in (("0.weight", 15.0), ("0.bias", 5.0), ("1.weight", 15.0), ("1.bias", 3.0))
    ]


@pytest.mark.faults
def test_a_runner_that_does_not_answer_is_an_error(learners, well):
    first, _ = send(learners, [begin(well, raises_at="finish_weight_update")], ("d",))
    assert isinstance(first, RuntimeError)
    assert "expected new weights to reach all runners within 20.0 s, got" in str(first)
    assert "cannot finish_weight_update" in str(first)


@pytest.mark.faults
def test_training_and_evaluation_have_a_sender_each_until_their_engines_change(learners, well, other):
    """A sender for every set of engines stayed open, and what it held with it."""
    for _ in range(2):
        for actor, engines, name in ((well, ("e",), "training"), (other, ("f",), "evaluation")):
            assert send(learners, [actor], engines, name=name) == [("state", 5)] * 2
    assert ray.get(well.seen.remote()) == WHOLE + WHOLE[1:]  # opened once
    before = ray.get([learner.closed.remote() for learner in learners])
    assert send(learners, [well], ("g",)) == [("state", 5)] * 2
    after = ray.get([learner.closed.remote() for learner in learners])
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 1]


@pytest.mark.faults
def test_a_client_keeps_the_first_failure_and_hangs_up_once(ray_session):
    hung_up = []
    actor = begin(new_runner(), dies_at="start_weight_update")
    client = RunnerClient([actor], workers_each=1, timeout=20.0)
    client.hang_up = lambda: hung_up.append(client.failure)
    client.init_weight_transfer_engine({})
    assert client.failure is None
    client.start_weight_update()
    client.update_weights({})
    client.finish_weight_update()
    assert isinstance(client.failure, ray.exceptions.RayActorError)
    assert hung_up == [client.failure]


class Invited:
    """Stands for the runners' client: what it is told goes to a thread that plays the worker."""

    def __init__(self, arrives) -> None:
        self.failure, self.arrives = None, arrives

    def init_weight_transfer_engine(self, info):
        self.arrives(self, **info)


def form(arrives, timeout=20.0):
    return form_group(
        Invited(arrives), lambda address, port: {"address": address, "port": port}, lambda group: group, 2, timeout
    )


@needs_vllm
@pytest.mark.usefixtures("ray_session")
def test_a_group_is_formed_on_a_port_that_was_never_free_in_between():
    """The port was looked for, closed and opened again: somebody else could have it by then."""
    from vllm.distributed.utils import StatelessProcessGroup

    received = []

    def arrives(client, address, port):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("", port))
        group = StatelessProcessGroup.create(address, port, 1, 2)
        received.append(group.broadcast_obj(None, src=0))

    group = form(arrives)
    group.broadcast_obj("hello", src=0)
    deadline = time.monotonic() + 20
    while not received and time.monotonic() < deadline:
        time.sleep(0.05)
    assert received == ["hello"]


@needs_vllm
@pytest.mark.usefixtures("ray_session")
def test_a_runner_that_dies_while_a_group_forms_is_noticed_at_once():
    """It was noticed after five minutes, as an error of the rendezvous, after which nobody was restarted."""

    def arrives(client, address, port):
        client.failure = ray.exceptions.ActorDiedError()

    start = time.monotonic()
    with pytest.raises(ray.exceptions.RayActorError):
        form(arrives, timeout=60.0)
    assert time.monotonic() - start < 10


@needs_vllm
@pytest.mark.usefixtures("ray_session")
def test_nobody_is_waited_for_beyond_the_limit():
    waits = threading.Event()
    with pytest.raises(TimeoutError, match="expected 1 workers of runners in the group within 1"):
        form(lambda client, address, port: waits.wait(20), timeout=1.0)
    waits.set()
