"""tools/test.py: OpenPCDet's flags and folders, the scores of a detector that knows the truth."""

import json

import pytest

import nsmae_plugin
from nsmae_plugin import host
from nsmae_plugin.formats.infos import read_infos
from nsmae_plugin.formats.nuscenes.benchmark import NuScenesBenchmark
from tests.helpers import toys
from tests.helpers.oracle import BROKEN
from tests.helpers.oracle_runs import (
    evaluate,
    history,
    make_workspace,
    register,
    results_folder,
    run_folder,
    run_tool,
    save,
    start_two_processes,
    summary,
)
from tests.helpers.paths import TINY
from tests.helpers.tensorboard import scalars

OPENPCDET_FLAGS = (
    *("cfg_file", "batch_size", "workers", "extra_tag", "ckpt", "pretrained_model", "launcher"),
    *("tcp_port", "local_rank", "set", "max_waiting_mins", "start_epoch", "eval_tag", "eval_all"),
    *("ckpt_dir", "save_to_file", "infer_time"),
)


@pytest.fixture
def workspace(alone, synthetic_root):
    return make_workspace(alone, synthetic_root)


@pytest.mark.parametrize("flag", OPENPCDET_FLAGS)
def test_openpcdets_flags_are_there(flag, capsys):
    with pytest.raises(SystemExit):
        run_tool("--help")
    assert f"--{flag} " in capsys.readouterr().out.replace("]", " ")


def test_the_newest_checkpoint_is_evaluated_into_its_folder(workspace, capsys):
    save(workspace, epoch=1, shift=(9.0, 0.0, 0.0))
    save(workspace, epoch=3)
    assert evaluate("--infer_time", "--save_to_file") == 0
    output = capsys.readouterr().out
    for words in ("mAP: 1.0000", "Per-class results", "AP within", "ms per sample"):
        assert words in output
    assert "recall/rcnn_0.5: 0.0000" in output
    assert "roi_" not in output  # a detector of one stage
    folder = results_folder(workspace)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("results_nusc.json", "metrics_summary.json", "metrics_details.json"),
        *("result.txt", "result.pkl", "final_result"),
    }
    assert summary(folder)["mean_ap"] == pytest.approx(1.0)
    assert len(list((folder / "final_result/data").glob("*.json"))) == 3
    assert len(list((run_folder(workspace) / "eval").glob("log_eval_*.txt"))) == 1

    (record,) = history(workspace)
    expected = {"epoch": 3, "step": 12, "split": "val", "eval_tag": "default"}
    assert expected.items() <= record.items()
    assert record["mAP"] == pytest.approx(1.0)
    assert 0.4 < record["recall/rcnn_0.3"] <= 0.5
    board = scalars(run_folder(workspace) / "eval/tensorboard_val_default")
    assert board["eval/mAP"] == [(12, pytest.approx(1.0))]


def test_worse_boxes_score_lower_and_replace_the_record(workspace):
    path = save(workspace)
    assert evaluate("--ckpt", path) == 0
    save(workspace, shift=(1.5, 0.0, 0.0))
    assert evaluate("--ckpt", path.parent, "--infer_time") == 0
    assert evaluate("--eval_tag", "other") == 0
    # 1.5 m off: not within 0.5 m and 1 m, but within 2 m and 4 m, where neighbours may mix.
    assert 0.3 < summary(results_folder(workspace))["mean_ap"] <= 0.51
    assert [(one["eval_tag"], one["mAP"] < 0.6) for one in history(workspace)] == [
        ("default", True),
        ("other", True),
    ]


def test_the_training_split_can_be_evaluated(workspace):
    save(workspace)
    assert evaluate("--split", "train") == 0
    aps = summary(results_folder(workspace, split="train"))["mean_dist_aps"]
    assert aps["car"] == pytest.approx(1.0)


def test_what_cannot_be_evaluated_says_so_before_the_network_runs(workspace, capsys):
    save(workspace)
    assert evaluate("--set", "DATA_CONFIG.DATA_SPLIT.test", "train") == 1
    assert "hold 0 of the 6 samples of the split mini_train" in capsys.readouterr().err
    assert evaluate("--set", "CLASS_NAMES", "['animal']") == 1
    assert "the nuScenes benchmark has no class animal" in capsys.readouterr().err
    assert evaluate("--batch_size", "0") == 1
    pretraining = TINY / "nsmae_pretrain.yaml"
    assert run_tool("--cfg_file", pretraining, "--results", "boxes.json") == 1
    assert "nsmae_pretrain.yaml finds no boxes" in capsys.readouterr().err
    assert run_tool("--cfg_file", toys.write_config(workspace)) == 1
    assert "DATA_CONFIG has no DATA_SPLIT" in capsys.readouterr().err


def test_a_broken_network_names_a_sample(workspace, capsys):
    save(workspace, shift=(BROKEN, 0.0, 0.0))
    (results_folder(workspace)).mkdir(parents=True)
    (results_folder(workspace) / "result.txt").write_text("of an earlier evaluation")
    assert evaluate() == 1
    assert "is NaN or infinite" in capsys.readouterr().err
    assert not (results_folder(workspace) / "result.txt").exists()


def test_a_results_file_is_scored_without_a_network(workspace, capsys):
    save(workspace)
    assert evaluate() == 0
    results = results_folder(workspace) / "results_nusc.json"
    capsys.readouterr()
    assert evaluate("--results", results) == 0
    assert "mAP: 1.0000" in capsys.readouterr().out
    content = json.loads(results.read_text(encoding="utf-8"))
    lost = sorted(content["results"])[1]
    del content["results"][lost]
    results.write_text(json.dumps(content), encoding="utf-8")
    assert evaluate("--results", results) == 1
    message = capsys.readouterr().err
    assert "results_nusc.json holds 2 of the 3 samples" in message
    assert lost in message


def test_two_processes_see_every_sample_once(workspace):
    save(workspace, shift=(0.3, 0.0, 0.0))
    assert evaluate("--eval_tag", "one") == 0
    outcome = start_two_processes(workspace, "--eval_tag", "two", "--save_to_file")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("Per-class results") == 1
    one, two = (
        json.loads((results_folder(workspace, eval_tag=tag) / "results_nusc.json").read_text())
        for tag in ("one", "two")
    )
    assert one == two
    assert len(two["results"]) == 3  # an odd number: nothing is repeated to fill up
    first, second = history(workspace)
    assert first["mAP"] == second["mAP"]
    assert first["recall/rcnn_0.5"] == second["recall/rcnn_0.5"] == 0
    files = results_folder(workspace, eval_tag="two") / "final_result/data"
    assert len(list(files.iterdir())) == 3


def test_two_processes_fail_together(workspace):
    save(workspace, shift=(BROKEN, 0.0, 0.0))
    outcome = start_two_processes(workspace)
    assert outcome.returncode != 0
    assert outcome.stderr.count("error: a predicted box of sample") == 1


def test_training_evaluates_a_detector(workspace, capsys, monkeypatch):
    monkeypatch.setattr(nsmae_plugin, "register", register)
    arguments = ("--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", "--seed", "1")
    arguments += ("--epochs", "2", "--extra_tag", "trained")
    assert toys.train(*arguments) == 0
    folder = run_folder(workspace, "trained")
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    tests = [one for one in map(json.loads, text.splitlines()) if one["split"] == "test"]
    assert [(one["epoch"], round(one["mAP"], 6)) for one in tests] == [(1, 1.0), (2, 1.0)]
    assert (folder / "eval/eval_with_train/val/results_nusc.json").is_file()
    assert "Per-class results" in capsys.readouterr().out
    assert evaluate("--extra_tag", "trained") == 0
    assert (folder / "eval/epoch_2/val/default/result.txt").is_file()
    # What could not be evaluated stops before anything is trained.
    wrong = ("--set", "DATA_CONFIG.DATA_SPLIT.test", "train")
    assert toys.train(*arguments[:-1], "wrong", *wrong) == 1
    assert not list((run_folder(workspace, "wrong") / "ckpt").iterdir())


def test_early_stopping_scores_the_validation_part_and_never_the_test_split(
    workspace, synthetic_root, capsys, monkeypatch
):
    monkeypatch.setattr(nsmae_plugin, "register", register)
    read = []
    original = NuScenesBenchmark.score

    def score(benchmark, annotations, infos, class_names, folder):
        read.append({info["token"] for info in infos})
        return original(benchmark, annotations, infos, class_names, folder)

    monkeypatch.setattr(NuScenesBenchmark, "score", score)
    part = ["DATA_CONFIG.VALIDATION_FRACTION", "0.5"]
    stopping = ["OPTIMIZATION.EARLY_STOPPING", "{'PATIENCE': 2}"]
    arguments = ["--cfg_file", "cfgs/group/oracle.yaml", "--workers", "0", "--seed", "1"]
    arguments += ["--epochs", "9", "--extra_tag", "early", "--set", *part, *stopping]
    # The oracle is right from the beginning: the first of three evaluations stays the best.
    assert toys.train(*arguments) == 0
    output = capsys.readouterr().out
    assert "3 of 6 samples are held out for validation" in output
    assert "the last 2 evaluations were not better than mAP 1 after epoch 1" in output
    folder = run_folder(workspace, "early")
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    scored = [one for one in map(json.loads, text.splitlines()) if one["split"] != "train"]
    assert [(one["split"], one["epoch"]) for one in scored] == [
        ("validation", n) for n in (1, 2, 3)
    ]
    assert (folder / "eval/eval_with_train/validation/results_nusc.json").is_file()
    infos = read_infos(synthetic_root / "v1.0-mini/nuscenes_infos_3sweeps_train.pkl")
    training = {info["token"] for info in infos}
    assert len(read) == 3
    assert all(len(one) == 3 and one < training for one in read)

    best = ["--extra_tag", "early", "--ckpt", folder / "ckpt/checkpoint_best.pth"]
    assert evaluate(*best) == 0
    assert (folder / "eval/epoch_1/val/default/result.txt").is_file()
    assert evaluate(*best, "--split", "validation", "--set", *part) == 0
    assert summary(folder / "eval/epoch_1/validation/default")["mean_ap"] == scored[0]["mAP"]
    capsys.readouterr()
    assert evaluate(*best, "--split", "validation") == 1
    assert "no validation part: set DATA_CONFIG.VALIDATION_FRACTION" in capsys.readouterr().err
    assert toys.train(*arguments, "DATA_CONFIG.VALIDATION_SEED", "1") == 1
    assert "VALIDATION_SEED 0 -> 1" in capsys.readouterr().err


@pytest.mark.openpcdet
@pytest.mark.skipif(host.NAME != "openpcdet", reason="needs NSMAE_HOST=openpcdet: its dataset")
def test_openpcdets_own_data_set_is_evaluated(workspace, capsys):
    save(workspace)
    own = ("--set", "DATA_CONFIG.DATASET", "NuScenesDataset")
    assert evaluate(*own) == 0
    assert summary(results_folder(workspace))["mean_ap"] == pytest.approx(1.0)
    assert history(workspace)[0]["mAP"] == pytest.approx(1.0)
    assert evaluate("--split", "train", *own) == 1
    assert "evaluates the validation split only" in capsys.readouterr().err
