"""The feed: exact order under workers, processes and resuming."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from oct_xla import Feed, FeedConfig, FeedError, sample_seed
from oct_xla.feeding.mixture import Mixture, Part
from toy import Batch, broken, deadly, draw, number, worker_pid


def feed(sample=number, length=20, **options):
    return Feed(sample, length, FeedConfig(**{"batch_size": 8, **options}))


def indices(batches, count):
    return [batch["index"].tolist() for batch in islice(batches, count)]


def test_an_epoch_shows_each_sample_at_most_once_and_the_next_is_permuted_anew():
    one, two, three, four = indices(feed(length=16).batches(), 4)
    assert sorted(one + two) == list(range(16)) == sorted(three + four)
    assert one + two != three + four


def test_a_step_number_is_the_whole_state():
    whole = indices(feed().batches(), 30)
    assert indices(feed().batches(17), 13) == whole[17:]


def test_processes_and_micro_batches_share_the_global_batch():
    whole = indices(feed().batches(3), 4)
    ranks = [indices(feed().batches(3, rank=r, world=2, micro_batches=2), 8) for r in (0, 1)]
    for step, batch in enumerate(whole):
        parts = [i for rank in ranks for micro in rank[2 * step : 2 * step + 2] for i in micro]
        assert sorted(parts) == sorted(batch)
        assert all(len(micro) == 2 for rank in ranks for micro in rank)


@pytest.mark.slow
def test_two_workers_give_the_batches_and_the_error_that_none_gives():
    plain, worked = feed(broken).batches(5), feed(broken, workers=2).batches(5)
    texts = []
    for batches in (plain, worked):
        seen = []
        try:
            for batch in batches:
                seen.append(batch["index"].tolist())
        except FeedError as error:
            texts.append((seen, str(error)))
    assert texts[0] == texts[1]
    assert len(texts[0][0]) >= 3


def test_a_failing_sample_is_named_in_one_line():
    with pytest.raises(FeedError, match=r"^feed: sample 7 of epoch \d: OSError: the disk is gone$"):
        list(islice(feed(broken).batches(8), 6))


def test_a_worker_that_was_killed_is_one_line_and_no_wait():
    batches = Feed(deadly, 40, FeedConfig(batch_size=8, workers=2)).batches()
    with pytest.raises(FeedError, match=r"worker \(pid\(s\) \d+.*lower feed.workers") as found:
        list(islice(batches, 10))
    assert "\n" not in str(found.value)


def test_samples_of_two_shapes_are_refused():
    with pytest.raises(FeedError, match=r"differ in shape: \[\(1,\), \(2,\)\]"):
        next(feed(lambda index, epoch: torch.zeros(1 + index % 2)).batches())


def test_what_no_sample_has_stays_none_and_what_some_lack_is_refused():
    batch = next(feed(lambda index, epoch: (torch.zeros(2), None)).batches())
    assert batch[0].shape == (8, 2)
    assert batch[1] is None
    with pytest.raises(FeedError, match="lack a part"):
        next(feed(lambda index, epoch: None if index % 2 else torch.zeros(2)).batches())


def test_batches_keep_the_structure_of_the_sample_and_its_dtype():
    batch = next(feed(draw).batches())
    assert isinstance(batch, Batch)
    assert batch.volume.shape == (8, 12)
    assert batch.volume.dtype == torch.uint8
    assert batch.masks[0].shape == (8, 7)


def test_read_only_arrays_of_a_cache_are_copied():
    array = np.arange(3, dtype=np.uint8)
    array.setflags(write=False)
    assert next(feed(lambda index, epoch: array).batches()).shape == (8, 3)


def test_fewer_samples_than_a_batch_say_so():
    with pytest.raises(FeedError, match=r"5 samples are fewer than feed.batch_size \(8\)"):
        feed(length=5)


def test_a_batch_that_does_not_divide_says_so():
    with pytest.raises(FeedError, match=r"\(8\) must be a multiple .* \(3 x 1\)"):
        feed().batches(world=3)


def test_seeds_are_63_bits_and_do_not_collide_among_neighbours():
    seeds = {sample_seed(s, e, i) for s in range(5) for e in range(20) for i in range(200)}
    assert len(seeds) == 20_000
    assert all(0 <= seed < 2**63 for seed in seeds)
    bits = [bin(sample_seed(0, 0, i) ^ sample_seed(0, 0, i + 1)).count("1") for i in range(500)]
    assert 29 < sum(bits) / len(bits) < 34


def test_iterating_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(feed().batches())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("workers", -1), ("subsets", 0)])
def test_a_bad_setting_is_named(field, value):
    with pytest.raises(ValueError, match=rf"feed\.{field} \({value}\)"):
        FeedConfig(**{field: value})


class Far:
    """Samples that lie far away; notes what it is told and asked."""

    def __init__(self):
        self.heard = []

    def __call__(self, index, epoch):
        self.heard.append((index, epoch))
        return number(index, epoch)

    def ahead(self, keys):
        self.heard.append(list(keys))


def test_samples_are_told_a_micro_batch_before_they_are_asked_for_it():
    far = Far()
    next(feed(far).batches(3))
    told, *asked = far.heard
    assert told == asked == next(feed().keys(3))


def test_a_mixture_tells_each_data_set_what_is_its_own():
    parts = [Far(), number]
    mixture = Mixture(
        [Part(name=f"{n}", sample=one, length=9, weight=1) for n, one in enumerate(parts)]
    )
    keys = [(index, 1) for index in range(len(mixture))]
    mixture.ahead(keys)
    drawn = [mixture.draw(*key) for key in keys]
    assert parts[0].heard == [[(one.sample, one.epoch) for one in drawn if one.part == 0]]


@pytest.mark.slow
def test_workers_end_with_a_training_process_that_was_killed():
    program = (
        "import os, signal, sys\n"
        "from toy import worker_pid\n"
        "from oct_xla import Feed, FeedConfig\n"
        "if __name__ == '__main__':\n"
        "    feed = Feed(worker_pid, 20, FeedConfig(batch_size=2, workers=2))\n"
        "    batches = feed.batches()\n"
        "    print(*{int(one) for _ in range(4) for one in next(batches)}, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        pids = [int(one) for one in process.stdout.readline().split()]
        process.wait()
    assert len(pids) == 2
    until = time.monotonic() + 60
    while any(map(is_alive, pids)):
        assert time.monotonic() < until
        time.sleep(0.05)


def ends_well(program):
    """Runs it; it ends within a minute and complains of nothing."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "reading",
    [
        pytest.param("deadly, 40", id="the error of a killed worker is kept"),
        pytest.param("endless, 40", id="a sample never comes"),
    ],
)
def test_a_program_ends_whatever_its_workers_do(reading):
    program = (
        "from itertools import islice\n"
        "from toy import deadly, endless\n"
        "from oct_xla import Feed, FeedConfig, FeedError\n"
        "if __name__ == '__main__':\n"
        f"    batches = Feed({reading}, FeedConfig(batch_size=8, workers=2)).batches()\n"
        "    try:\n"
        "        print(len(list(islice(batches, 3))), flush=True)\n"
        "    except FeedError as error:\n"
        "        kept = error\n"
    )
    ends_well(program)


@pytest.mark.slow
def test_a_program_ends_when_all_that_it_shares_with_workers_is_given_back():
    """However slow that is: a thread stopped halfway leaves a semaphore, of which Python warns."""
    program = (
        "import threading, time\n"
        "from multiprocessing import synchronize\n"
        "from toy import number\n"
        "from oct_xla import Feed, FeedConfig\n"
        "unlink, slept = synchronize.sem_unlink, []\n"
        "def slow_beside_the_program(name):\n"
        "    unlink(name)\n"
        "    if threading.current_thread() is not threading.main_thread() and not slept:\n"
        "        slept.append(time.sleep(6))\n"
        "if __name__ == '__main__':\n"
        "    synchronize.sem_unlink = slow_beside_the_program\n"
        "    batches = Feed(number, 40, FeedConfig(batch_size=8, workers=2)).batches()\n"
        "    next(batches)\n"
        "    time.sleep(1)\n"  # the next batch is here: the thread ends when it is told to
    )
    ends_well(program)


@pytest.mark.slow
def test_the_next_batch_is_here_before_it_is_asked_for_though_its_worker_stands_still():
    batches, found = feed(worker_pid, workers=2).batches(), []
    pids = {int(pid) for _ in range(2) for pid in next(batches)}
    assert len(pids) == 2
    until = time.monotonic() + 60
    while batches._found.empty():
        assert time.monotonic() < until
        time.sleep(0.01)
    asking = threading.Thread(target=lambda: found.append(next(batches)), daemon=True)
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        asking.start()
        asking.join(10)
        assert len(found) == 1
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_workers_and_their_thread_end_with_the_iterator_and_with_an_error():
    def alive():
        return [one for one in threading.enumerate() if one.name == "oct-xla-feed"]

    batches = feed(worker_pid, workers=1).batches()
    (pid,) = set(next(batches).tolist())
    assert alive()
    del batches
    until = time.monotonic() + 60
    while alive() or is_alive(pid):
        assert time.monotonic() < until
        time.sleep(0.05)
    batches = feed(broken, workers=1).batches(8)
    with pytest.raises(FeedError, match="the disk is gone"):
        list(batches)
    assert list(batches) == []


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
