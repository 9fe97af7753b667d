"""Batches depend on seed, epoch and index alone: not on workers, processes, or a resume."""

# ruff: noqa: NPY002
# The states that it must leave alone are NumPy's global ones.

import os
import random

import numpy as np
import pytest
import torch

from nsmae_plugin import host
from nsmae_plugin.data.loader import (
    Draw,
    EpochSampler,
    SeededDataset,
    build_dataloader,
    default_workers,
    seeded,
)
from nsmae_plugin.data.nuscenes_dataset import MultiModalNuScenesDataset
from nsmae_plugin.errors import ConfigError
from tests.helpers.tiny_frames import AUGMENTORS, CLASSES, configuration, write_frames


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    host.register("dataset", "MultiModalNuScenesDataset", MultiModalNuScenesDataset)
    root = tmp_path_factory.mktemp("frames")
    write_frames(root, frames=5, cameras=1)
    return configuration(root, augmentors=AUGMENTORS)


def loader_of(config, workers=0, epoch=0, start=0, **options):
    _, loader, sampler = build_dataloader(
        config, CLASSES, batch_size=2, workers=workers, **({"seed": 1} | options)
    )
    sampler.set_epoch(epoch, start)
    return loader


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert set(batch) == set(other)
        for key in batch:
            np.testing.assert_equal(np.array(batch[key]), np.array(other[key]), err_msg=key)


def seed_all():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def draw_all():
    return random.random(), np.random.rand(), torch.rand(1).item()


def differs(batch, other):
    shapes = batch["points"].shape == other["points"].shape
    return not shapes or (batch["points"] != other["points"]).any()


def test_batches_do_not_depend_on_the_number_of_workers(config):
    batches = [list(loader_of(config, workers)) for workers in (0, 1, 2)]
    assert len(batches[0]) == 3
    assert_same(batches[0], batches[1])
    assert_same(batches[0], batches[2])


def test_a_resumed_epoch_continues_with_the_same_batches(config):
    whole = list(loader_of(config, epoch=3))
    assert_same(list(loader_of(config, epoch=3, start=2)), whole[1:])


def test_the_length_of_an_epoch_does_not_change_by_resuming(config):
    assert len(loader_of(config, start=2)) == len(loader_of(config)) == 3


def test_epochs_and_seeds_give_other_batches(config):
    first = next(iter(loader_of(config)))
    assert differs(first, next(iter(loader_of(config, epoch=1))))
    assert differs(first, next(iter(loader_of(config, seed=2))))


def test_evaluation_takes_every_sample_once_in_order_with_the_same_masks(config):
    batches = [list(loader_of(config, training=False)) for _ in range(2)]
    assert_same(*batches)
    tokens = [one["token"] for batch in batches[0] for one in batch["metadata"]]
    assert tokens == [f"token-{number}" for number in range(5)]


def test_loading_leaves_the_global_random_states_alone(config):
    seed_all()
    expected = draw_all()
    seed_all()
    list(loader_of(config))
    assert draw_all() == expected


def test_seeding_reaches_all_generators_and_is_undone_after_an_error():
    def fail():
        with seeded(1, 2):
            assert draw_all() == first
            raise KeyError

    with seeded(1, 2):
        first = draw_all()
    seed_all()
    expected = draw_all()
    seed_all()
    with pytest.raises(KeyError):
        fail()
    assert draw_all() == expected
    with seeded(2, 1):
        assert not set(draw_all()) & set(first)


@pytest.mark.parametrize(
    ("cores", "processes", "workers"),
    [(2, None, 2), (64, None, 8), (16, 8, 2), (4, 8, 1)],
)
def test_there_are_as_many_workers_as_cores_for_each_process(
    monkeypatch, cores, processes, workers
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert default_workers() == workers


class RandomNumbers:
    def __getitem__(self, index):
        return draw_all()


def test_seed_epoch_index_and_repeat_decide_what_a_sample_draws():
    def numbers(seed, *draw):
        return SeededDataset(RandomNumbers(), seed)[Draw(*draw)]

    others = [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    assert len({numbers(*one) for one in [(0, 0, 0, 0), *others]}) == 5
    assert numbers(*others[1]) == numbers(*others[1])


def test_two_processes_partition_the_epoch():
    for length in (6, 7):
        shares = [
            list(EpochSampler(length, seed=0, pad=False, rank=rank, world_size=2))
            for rank in range(2)
        ]
        indices = [draw.index for share in shares for draw in share]
        assert sorted(indices) == list(range(length))


def test_training_processes_take_equally_many_steps_by_repeating_the_first_draws():
    samplers = [EpochSampler(7, seed=0, rank=rank, world_size=3) for rank in range(3)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers] == [3] * 3
    dealt = [share[turn] for turn in range(3) for share in shares]
    assert dealt[:7] == list(EpochSampler(7, seed=0))
    assert dealt[7:] == dealt[:2]


def test_joint_batches_of_two_processes_are_the_batches_of_one():
    one = list(EpochSampler(8, seed=5))
    two = [list(EpochSampler(8, seed=5, rank=rank, world_size=2)) for rank in range(2)]
    for batch in range(2):
        joint = two[0][2 * batch : 2 * batch + 2] + two[1][2 * batch : 2 * batch + 2]
        assert set(joint) == set(one[4 * batch : 4 * batch + 4])


def test_a_longer_epoch_repeats_the_data_in_new_order_and_with_new_draws():
    draws = list(EpochSampler(4, seed=0, epoch_length=10))
    assert [draw.repeat for draw in draws] == [0] * 4 + [1] * 4 + [2] * 2
    assert (
        {draw.index for draw in draws[:4]} == {draw.index for draw in draws[4:8]} == set(range(4))
    )
    assert [draw.index for draw in draws[:4]] != [draw.index for draw in draws[4:8]]
    assert len(set(draws)) == 10


def test_without_shuffling_the_order_is_that_of_the_data():
    sampler = EpochSampler(3, shuffle=False, pad=False)
    assert list(sampler) == [Draw(0, 0), Draw(0, 1), Draw(0, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"seed": -5}, "seed must be at least 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 does not fit"),
        ({"epoch_length": 0}, "an epoch of 0 draws"),
    ],
)
def test_impossible_settings_are_refused(config, options, message):
    with pytest.raises(ConfigError, match=message):
        build_dataloader(config, CLASSES, **({"batch_size": 1} | options))
