"""Trials of a probe: the same whatever ran before, kept one by one, continued after a stop."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch

from nsmae_plugin.errors import DataError
from nsmae_plugin.experiments.probe import runner
from nsmae_plugin.experiments.probe.heads import RECIPES, Recipe, build_head, fit
from nsmae_plugin.experiments.probe.occupancy_task import OccupancyTask
from nsmae_plugin.experiments.probe.options import ProbeOptions
from nsmae_plugin.experiments.probe.runner import Probe, run_trials
from nsmae_plugin.experiments.probe.standardised import Standardised
from nsmae_plugin.experiments.probe.study import Probed, Study, labels_digest
from nsmae_plugin.experiments.probe.summary import write_summary
from nsmae_plugin.experiments.probe.trials import Trial
from tests.helpers.probe_labels import CELLS, made_up_labels

OPTIONS = ProbeOptions(cfg_file=Path("toy.yaml"))
LABELS = {"train": made_up_labels(6, seed=0), "test": made_up_labels(3, seed=1)}


@dataclass
class Features:
    """Made-up features with the method of a ``FeatureCache`` that trials read."""

    values: torch.Tensor

    def branch(self, name):
        return self.values


def features(*networks):
    generator = torch.Generator().manual_seed(0)
    return {
        (network, split): Features(
            torch.randn(len(labels), 3, CELLS, CELLS, generator=generator).half()
        )
        for network in networks
        for split, labels in LABELS.items()
    }


def study(folder, *networks):
    probed = {name: Probed(f"features of {name}", "untrained", {}) for name in networks}
    labels = labels_digest(list(LABELS.values()))
    found = Study(folder, "toy.yaml", labels, "frames", "test", (6, 3), probed)
    found.save()
    return found


def probe(fractions=(0.5, 1.0), seeds=3):
    labelled = {
        (fraction, seed): LABELS["train"].labelled(fraction, "frames", seed)
        for fraction in fractions
        for seed in range(seeds)
    }
    task = OccupancyTask(LABELS["train"], LABELS["test"])
    return Probe(
        OPTIONS, *LABELS.values(), "frames", ["lidar"], {"occupancy": task}, labelled, "cpu"
    )


def trials(*networks, seeds=2, fractions=(0.5, 1.0)):
    return [
        Trial(network, "lidar", head, "occupancy", fraction, seed)
        for seed in range(seeds)
        for fraction in fractions
        for head in RECIPES
        for network in networks
    ]


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, replace(recipe, least=3, most=3))


def run(folder, wanted, *networks):
    found = study(folder, *networks)
    run_trials(found, probe(), features(*networks), wanted, lambda: "")
    return found


def scores(found, *networks):
    return {one.trial: one.metrics for one in found.results(networks)[0]}


def test_a_stopped_probe_goes_on_and_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    wanted = trials("a", "b")
    whole = scores(run(tmp_path / "whole", wanted, "a", "b"), "a", "b")
    assert len(whole) == 16
    started = []

    def stop_at_the_sixth(trial, *rest):
        started.append(trial)
        if len(started) == 6:
            raise KeyboardInterrupt
        return run_trial(trial, *rest)

    run_trial = runner.run_trial
    monkeypatch.setattr(runner, "run_trial", stop_at_the_sixth)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", wanted, "a", "b")
    with open(tmp_path / "parts/trials.jsonl", "a") as file:
        file.write('{"trial": {"netw')  # killed while it wrote
    found = study(tmp_path / "parts", "a", "b")
    assert len(scores(found, "a", "b")) == 5
    found.log.repair()
    run_trials(found, probe(), features("a", "b"), wanted, lambda: "")
    assert scores(found, "a", "b") == whole
    assert len(started) == 6 + 16 - 5


def test_a_result_does_not_depend_on_what_ran_before(tmp_path):
    wanted = trials("a")
    forward = scores(run(tmp_path / "forward", wanted, "a"), "a")
    backward = scores(run(tmp_path / "backward", wanted[::-1], "a"), "a")
    assert forward == backward
    assert len({json.dumps(one) for one in forward.values()}) == len(forward)


def test_networks_share_the_random_numbers_of_a_seed():
    first = Trial("a", "lidar", "linear", "map", 0.1, 3)
    numbers = torch.rand(4, generator=first.generator())
    for same in (replace(first, network="b"), replace(first, branch="fused")):
        assert torch.equal(torch.rand(4, generator=same.generator()), numbers)
    for changed in ({"seed": 4}, {"fraction": 1.0}, {"task": "centers"}, {"head": "shallow"}):
        other = replace(first, **changed)
        assert not torch.equal(torch.rand(4, generator=other.generator()), numbers)


def test_a_grid_grows_and_keeps_what_it_had(tmp_path):
    before = scores(run(tmp_path, trials("a"), "a"), "a")
    grown = run(tmp_path, trials("a", "b", seeds=3)[:-1], "a", "b")
    assert before.items() <= scores(grown, "a", "b").items()
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert len(lines) == 23  # each once


@pytest.mark.parametrize("what", ["features", "labels", "label_fraction_by", "recipe"])
def test_results_of_other_settings_do_not_count(tmp_path, monkeypatch, what):
    found = run(tmp_path, trials("a", "b"), "a", "b")
    if what == "features":
        found.networks["a"] = replace(found.networks["a"], features="of other weights")
    elif what == "recipe":
        monkeypatch.setitem(RECIPES, "linear", replace(RECIPES["linear"], lr=0.5))
    else:
        setattr(found, what, "another")
    results, others = found.results(["a"])
    assert (len(results), others) == {"features": (0, 8), "recipe": (4, 4)}.get(what, (0, 8))
    assert len(found.results(["b"])[0]) == {"features": 8, "recipe": 4}.get(what, 0)


def test_a_study_is_read_as_it_was_written(tmp_path):
    found = study(tmp_path, "a")
    found.networks["a"] = replace(found.networks["a"], diagnostics={"lidar": {"rank": 2.0}})
    found.save()
    again = Study.read(tmp_path)
    assert asdict(again) == {**asdict(found), "frames": list(found.frames)}
    assert Study.read(tmp_path / "nowhere") is None
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(DataError, match="is not the record of a probe"):
        Study.read(tmp_path)


def test_a_damaged_line_of_results_is_named(tmp_path):
    found = run(tmp_path, trials("a")[:2], "a")
    with open(tmp_path / "trials.jsonl", "a") as file:
        file.write("[]\n")
    with pytest.raises(DataError, match=r"trials.jsonl:3 is not a result"):
        found.results(["a"])


def test_features_are_standardised_by_the_training_frames():
    train = torch.tensor([[[[1.0, 3.0]], [[7.0, 7.0]]], [[[5.0, 7.0]], [[7.0, 7.0]]]])
    test = torch.tensor([[[[4.0, 9.0]], [[7.0, 1e4]]]])
    both = Standardised([(train, test)])
    # Mean 4, variance (9 + 1 + 1 + 9) / 4 = 5; a constant channel says nothing, wherever.
    assert both.train([1, 0])[:, 0] == pytest.approx(torch.tensor([[[1, 3]], [[-3, -1]]]) / 5**0.5)
    assert both.test([0])[0, 0] == pytest.approx(torch.tensor([[0, 5]]) / 5**0.5)
    assert not both.train([0, 1])[:, 1].any()
    assert not both.test([0])[:, 1].any()


def test_parts_of_another_size_are_interpolated_to_the_last():
    coarse, fine = torch.randn(3, 2, 4, 4), torch.randn(3, 1, 8, 8)
    both = Standardised([(coarse, coarse), (fine, fine)])
    assert both.channels == 3
    assert both.train([0, 2]).shape == (2, 3, 8, 8)
    assert torch.equal(both.test([1])[:, 2:], Standardised([(fine, fine)]).test([1]))


def test_all_labelled_frames_are_seen_equally_often():
    recipe = Recipe(width=0, least=1, epochs=3, most=99, lr=0.1, weight_decay=0.0)
    head = build_head(0, 1, [0.0], torch.Generator().manual_seed(0))
    seen = []

    def read(frames):
        seen.append(list(frames))
        return torch.ones(len(frames), 1, 1, 1)

    frames = [2, 3, 5, 7]
    losses = fit(head, read, lambda logits, _: logits.mean(), frames, recipe, torch.Generator())
    assert len(losses) == len(seen) == 12
    rounds = [[frame for (frame,) in seen[first : first + 4]] for first in (0, 4, 8)]
    assert [sorted(one) for one in rounds] == [frames] * 3
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]


def test_few_frames_are_seen_more_often_and_very_many_not_all():
    recipe = Recipe(width=0, least=10, epochs=2, most=100, lr=0.1, weight_decay=0.0)
    assert [recipe.steps(frames) for frames in (1, 5, 6, 50, 51, 1000)] == [10, 10, 12, *[100] * 3]


def test_an_untrained_head_answers_its_biases():
    for width in (0, 8):
        head = build_head(width, 4, [-3.0, 2.0], torch.Generator().manual_seed(0)).eval()
        answer = head(torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1)))
        assert answer.detach().mean((0, 2, 3)) == pytest.approx(torch.tensor([-3.0, 2.0]), abs=0.1)


def test_the_report_tells_networks_of_different_features_and_parts_without_weights(tmp_path):
    found = run(tmp_path, trials("a", "b")[:8], "a", "b")

    def report():
        return write_summary(found, ["a", "b"], {"occupancy": ["mAP"]}, "a")

    options = {"channels": None, "batch_size": 4}
    found.networks["a"] = replace(found.networks["a"], options=options)
    found.networks["b"] = replace(
        found.networks["b"], origin="`b.pth`", options=options, untrained=["backbone_3d"]
    )
    assert "- b: `b.pth`, without weights of backbone_3d, which are untrained" in report()
    assert "different" not in report()
    found.networks["b"] = replace(found.networks["b"], options={**options, "channels": 16})
    assert "- a: untrained, channels None\n- b: `b.pth`, channels 16, without" in report()
    assert "**The features were computed with different channels**" in report()
