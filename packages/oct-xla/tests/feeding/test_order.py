"""The order of samples and mixtures: bijections that hold no list."""

import itertools
import time
import tracemalloc
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from oct_xla import Feed, FeedConfig, FeedError
from oct_xla.feeding.mixture import Mixture, Part
from oct_xla.feeding.order import Order, subset_of
from toy import number


def order(length, seed=0, epoch=0):
    return Order(length, seed=seed, epoch=epoch)


def chi_square(counts):
    return ((counts - counts.mean()) ** 2 / counts.mean()).sum()


@pytest.mark.parametrize(
    "lengths",
    [range(1, 200), [255, 256, 257, 961, 962, 1023, 1024, 1025, 4099], [65_536, 99_991, 250_001]],
)
def test_each_sample_has_one_place_whatever_their_number(lengths):
    for length, seed in itertools.product(lengths, (0, 1, 2**62)):
        places = np.sort(order(length, seed).take(np.arange(length)))
        assert np.array_equal(places, np.arange(length)), (length, seed)


def test_one_place_is_found_without_the_others():
    whole = order(1000, 3, 2).take(np.arange(1000))
    assert [order(1000, 3, 2)[place] for place in (0, 17, 999)] == whole[[0, 17, 999]].tolist()


@pytest.mark.parametrize("length", [2, 3, 5, 8, 10, 40, 97])
def test_each_sample_comes_to_each_place_equally_often_over_the_seeds(length):
    tries = 200 * length
    seen = np.zeros((length, length))
    for seed in range(tries):
        seen[np.arange(length), order(length, seed).take(np.arange(length))] += 1
    freedom = (length - 1) ** 2
    assert abs(chi_square(seen) - freedom) < 5 * np.sqrt(2 * freedom)


def test_all_orders_of_four_come_equally_often():
    found = Counter(tuple(order(4, 0, e).take(np.arange(4)).tolist()) for e in range(24 * 400))
    assert len(found) == 24
    assert abs(chi_square(np.array(list(found.values()))) - 23) < 5 * np.sqrt(2 * 23)


@pytest.mark.parametrize("length", [1000, 1024, 10_007])
def test_neighbours_in_the_order_are_no_neighbours_in_the_data(length):
    steps, batches = [], []
    for seed in range(20):
        places = order(length, seed).take(np.arange(length)).astype(int)
        steps.append(np.bincount((np.diff(places) % length) * 16 // length, minlength=16))
        batches.append(places[: length // 8 * 8].reshape(-1, 8).mean(axis=1))
    assert chi_square(np.sum(steps, axis=0)) < 15 + 5 * np.sqrt(30)
    # The mean of eight draws without replacement from 0 .. length - 1.
    spread = np.concatenate(batches).std() / (length / np.sqrt(12 * 8))
    assert spread == pytest.approx(1, abs=0.05)


def test_two_epochs_and_two_seeds_are_unrelated():
    one = order(10_000).take(np.arange(10_000))
    for other in (order(10_000, 0, 1), order(10_000, 1, 0)):
        assert (one == other.take(np.arange(10_000))).sum() < 10
        assert abs(np.corrcoef(one, other.take(np.arange(10_000)))[0, 1]) < 0.05


def test_a_billion_samples_begin_and_resume_at_once_in_constant_memory():
    feed = Feed(number, 10**9, FeedConfig(batch_size=64))
    tracemalloc.start()
    began = time.perf_counter()
    for step in (0, 7_812_499, 15_624_998, 10**12):  # the last batch of an epoch among them
        ahead = list(islice(feed.keys(step, rank=1, world=4), 100))
        assert list(islice(feed.keys(step + 60, rank=1, world=4), 40)) == ahead[60:]
        assert all(0 <= index < 10**9 for batch in ahead for index, _ in batch)
    assert time.perf_counter() - began < 1.0
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()


def test_every_world_size_sees_the_same_steps_in_mid_epoch_and_over_its_end():
    feed = Feed(number, 1003, FeedConfig(batch_size=24))
    whole = [sorted(keys) for keys in islice(feed.keys(30), 60)]
    for world, micro in ((1, 2), (2, 1), (4, 3), (8, 1)):
        walks = [feed.keys(30, rank=r, world=world, micro_batches=micro) for r in range(world)]
        for batch in whole:
            parts = [list(islice(walk, micro)) for walk in walks]
            assert {len(part) for rank in parts for part in rank} == {24 // world // micro}
            assert sorted(key for rank in parts for part in rank for key in part) == batch


SUBSETS = 6


def divided(subsets=SUBSETS, length=1003, sample=number):
    return Feed(sample, length, FeedConfig(batch_size=24, subsets=subsets))


def subset_at(index, length=1003):
    return next(n for n in range(SUBSETS) if index in subset_of(length, SUBSETS, n))


def test_each_step_takes_equally_many_of_each_subset_and_a_process_the_same_ones_in_every_epoch():
    feed, rank = divided(), 1
    assert {len(subset_of(1003, SUBSETS, n)) for n in range(SUBSETS)} == {167, 168}
    assert [n for m in range(SUBSETS) for n in subset_of(1003, SUBSETS, m)] == list(range(1003))
    walk, seen = feed.keys(0, rank=rank, world=3, micro_batches=2), set()
    for _ in range(3 * feed.steps_per_epoch):
        for micro in (next(walk), next(walk)):
            assert [subset_at(index) for index, _ in micro] == [2, 3, 2, 3]
            seen |= {index for index, _ in micro}
    # One of 167 and four of 168 are left out in an epoch, and others in the next.
    assert seen == {*subset_of(1003, SUBSETS, 2), *subset_of(1003, SUBSETS, 3)}


def test_no_sample_of_a_subset_comes_twice_in_an_epoch_nor_in_the_order_of_another():
    feed = divided(length=1008)
    epoch = np.array([[i for i, _ in keys] for keys in islice(feed.keys(0), feed.steps_per_epoch)])
    assert sorted(epoch.ravel().tolist()) == list(range(1008))
    places = epoch.reshape(-1, SUBSETS) % 168
    assert all((places[:, 0] == places[:, n]).mean() < 0.05 for n in range(1, SUBSETS))
    again = [[i for i, _ in keys] for keys in islice(feed.keys(42), feed.steps_per_epoch)]
    assert (np.array(again) == epoch).mean() < 0.05


def test_the_batches_of_subsets_are_those_of_any_number_of_processes_wherever_they_are_taken_up():
    feed = divided()
    whole = [sorted(keys) for keys in islice(feed.keys(0), 100)]
    for world, micro, start in ((1, 4, 0), (2, 1, 30), (3, 2, 41), (6, 4, 83)):
        walks = [feed.keys(start, rank=r, world=world, micro_batches=micro) for r in range(world)]
        for batch in whole[start : start + 17]:
            parts = [list(islice(walk, micro)) for walk in walks]
            assert {len(part) for rank in parts for part in rank} == {24 // world // micro}
            assert sorted(key for rank in parts for part in rank for key in part) == batch


def test_a_billion_samples_in_subsets_begin_at_once_in_constant_memory():
    feed = Feed(number, 10**9, FeedConfig(batch_size=128, subsets=64))
    tracemalloc.start()
    for step in (0, 7_812_499, 10**12):
        ahead = list(islice(feed.keys(step, rank=63, world=64), 40))
        assert list(islice(feed.keys(step + 30, rank=63, world=64), 10)) == ahead[30:]
        assert all(index >= 10**9 * 63 // 64 for batch in ahead for index, _ in batch)
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()


def test_subsets_that_do_not_divide_are_refused():
    with pytest.raises(FeedError, match=r"feed\.subsets \(6\) must be a multiple .* \(4\), each"):
        divided().keys(0, world=4)
    with pytest.raises(ValueError, match=r"feed\.batch_size \(24\) must be a multiple .* \(5\)"):
        divided(5)
    with pytest.raises(FeedError, match=r"feed\.subsets \(6\) must be those of the mixture \(1\)"):
        divided(length=800, sample=mixture())


def test_a_length_out_of_bounds_is_refused():
    for length in (0, -1, 2**62 + 1):
        with pytest.raises(ValueError, match=rf"length \({length}\)"):
            order(length)


def part(name, length, weight):
    return Part(name=name, sample=lambda i, e: {"of": name, "i": i, "e": e}, length=length,
                weight=weight)  # fmt: skip


def mixture(**options):
    return Mixture([part("large", 700, 1), part("small", 10, 2), part("odd", 90, 1)], **options)


def test_each_part_has_its_share_of_every_epoch():
    mixed = mixture(length=400)
    for epoch in (0, 1, 7):
        found = Counter(mixed.draw(index, epoch).part for index in range(400))
        assert found == {0: 100, 1: 200, 2: 100}
    assert len(mixture()) == 800


def test_a_part_is_gone_through_before_a_sample_of_it_comes_again():
    mixed, drawn = mixture(length=400), {0: [], 1: [], 2: []}
    for epoch, index in itertools.product(range(7), range(400)):
        draw = mixed.draw(index, epoch)
        drawn[draw.part].append((draw.epoch, draw.sample))
    for which, length in ((0, 700), (1, 10), (2, 90)):
        found = drawn[which]
        assert len(set(found)) == len(found)
        for turn in range(len(found) // length):
            mine = [i for e, i in found[turn * length : (turn + 1) * length] if e == turn]
            assert sorted(mine) == list(range(length))
    first, second = drawn[1][:10], drawn[1][10:20]
    assert [i for _, i in first] != [i for _, i in second]


def test_a_mixture_is_fed_like_one_data_set_and_resumes():
    feed = Feed(mixture(length=400), 400, FeedConfig(batch_size=8))
    whole = [(b["of"], b["i"].tolist(), b["e"].tolist()) for b in islice(feed.batches(), 120)]
    again = [(b["of"], b["i"].tolist(), b["e"].tolist()) for b in islice(feed.batches(75), 45)]
    assert again == whole[75:]
    shares = [Counter(of)["small"] for of, _, _ in whole[:50]]
    assert sum(shares) == 200
    assert 0.5 < np.std(shares) < 2.5  # not sorted by part: of eight, four give or take 1.4


@pytest.mark.parametrize("length", [None, 401])
def test_each_subset_of_a_mixture_has_its_shares_from_its_own_samples_alone(length):
    mixed = mixture(length=length, subsets=4)
    lengths = [part.length for part in mixed.parts]
    found = [[Counter() for _ in range(4)] for _ in lengths]
    for epoch, index in itertools.product(range(8), range(len(mixed))):
        drawn = mixed.draw(index, epoch)
        subset = next(n for n in range(4) if index in subset_of(len(mixed), 4, n))
        assert drawn.sample in subset_of(lengths[drawn.part], 4, subset)
        found[drawn.part][subset][drawn.sample] += 1
    for length, of_part in zip(lengths, found, strict=True):
        for subset, counts in enumerate(of_part):
            assert counts.keys() == set(subset_of(length, 4, subset))
            assert max(counts.values()) - min(counts.values()) <= 1
    shares = [sum(map(Counter.total, of_part)) for of_part in found]
    assert [8 * count for count in mixed.counts] == shares
    assert np.allclose(np.array(shares) / sum(shares), [0.25, 0.5, 0.25], atol=0.01)


def test_a_mixture_in_subsets_is_fed_and_taken_up():
    feed = Feed(mixture(subsets=4), 800, FeedConfig(batch_size=8, subsets=4))
    whole = [(b["of"], b["i"].tolist()) for b in islice(feed.batches(rank=1, world=2), 120)]
    again = [(b["of"], b["i"].tolist()) for b in islice(feed.batches(75, rank=1, world=2), 45)]
    assert again == whole[75:]


def test_weights_that_do_not_divide_are_rounded_by_largest_remainder():
    mixed = Mixture([part("a", 5, 1), part("b", 5, 1), part("c", 5, 1)], length=8)
    assert mixed.facts["mixture.counts"] == [3, 3, 2]
    assert len(mixed) == 8


def test_a_mixture_that_cannot_be_is_refused_by_name():
    for bad in (part("b", 0, 1), part("b", 3, 0), part("b", 3, -1), part("b", 3, float("nan"))):
        with pytest.raises(FeedError, match=r"mixture: b has \d samples and weight"):
            Mixture([part("a", 3, 1), bad])
    with pytest.raises(FeedError, match="it has no parts"):
        Mixture([])
    with pytest.raises(FeedError, match=r"mixture: small has 10 samples, fewer than feed.subsets"):
        mixture(subsets=11)
    with pytest.raises(FeedError, match=r"mixture: b gets no sample of the 10 of an epoch"):
        Mixture([part("a", 3, 1000), part("b", 3, 1)], length=10)


def test_a_failing_sample_of_a_part_is_named_with_it():
    def fail(index, epoch):
        raise OSError("gone")

    bad = Part(name="site B", sample=fail, length=3, weight=1)
    feed = Feed(Mixture([bad]), 3, FeedConfig(batch_size=1))
    with pytest.raises(FeedError, match=r"sample \d of site B: OSError: gone"):
        next(feed.batches())
