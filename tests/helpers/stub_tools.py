"""Stand-ins for ``nsmae train`` and ``nsmae test``: the same flags and files, within milliseconds.

The mAP that they produce is ``fraction / 2 + seed / 100``, plus 0.1 when pre-trained, and another
``0.02 * seed`` from ``better.pth``; NDS is twice that, mIoU half. Each run appends what it did to
``calls.jsonl`` in the working directory. The environment sets traps: ``STUB_FAIL`` names the
command and the run folder that fails, ``STUB_INTERRUPT`` a run folder whose training stops half
way, once, ``STUB_HANG`` makes every training wait for a minute.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

NSMAE = ("-m", "tests.helpers.stub_tools")
FLAGS = {
    "train": ("--seed", "--pretrained_model", "--max_ckpt_save_num", "--eval_interval"),
    "test": ("--eval_tag", "--ckpt"),
}


def parse(command: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    common = ("--cfg_file", "--extra_tag", "--output_dir", "--workers", "--device", "--batch_size")
    for flag in (*common, *FLAGS[command]):
        parser.add_argument(flag)
    parser.add_argument("--set", dest="overrides", nargs=argparse.REMAINDER, default=[])
    return parser.parse_args(sys.argv[2:])


def main(command: str) -> int:
    args = parse(command)
    group, stem = Path(args.cfg_file).parent.name, Path(args.cfg_file).stem
    folder = Path(args.output_dir) / group / stem / args.extra_tag
    absent = dict.fromkeys(("ckpt", "eval_interval"))
    call = {"command": command, "name": folder.name, **absent, **vars(args)}
    call["pid"], call["threads"] = os.getpid(), os.environ.get("OMP_NUM_THREADS")
    with open("calls.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(call) + "\n")
    if os.environ.get("STUB_FAIL") == f"{command} {folder.name}":
        print("the stub was told to fail")
        return 3
    return train(folder, args) if command == "train" else test(folder, args)


def train(folder: Path, args: argparse.Namespace) -> int:
    values = dict(zip(args.overrides[::2], args.overrides[1::2], strict=True))
    half, whole = folder / "ckpt/checkpoint_epoch_1.pth", folder / "ckpt/checkpoint_epoch_2.pth"
    half.parent.mkdir(exist_ok=True)
    if half.exists():  # its own checkpoint tells where it started from
        start = half.read_text(encoding="utf-8")
        assert args.pretrained_model is None
    else:
        start = args.pretrained_model or ""
        half.write_text(start, encoding="utf-8")
        if os.environ.get("STUB_INTERRUPT") == folder.name:
            return 9
    if "STUB_HANG" in os.environ:
        time.sleep(60)
    mean_ap = float(values["DATA_CONFIG.LABEL_FRACTION"]) / 2 + int(args.seed) / 100
    mean_ap += 0.1 * bool(start) + 0.02 * int(args.seed) * (Path(start).name == "better.pth")
    whole.write_text(str(mean_ap), encoding="utf-8")
    return 0


def test(folder: Path, args: argparse.Namespace) -> int:
    mean_ap = float((folder / "ckpt/checkpoint_epoch_2.pth").read_text(encoding="utf-8"))
    place = folder / "eval/epoch_2/val" / args.eval_tag
    place.mkdir(parents=True)
    metrics = {
        "mean_ap": mean_ap,
        "nd_score": 2 * mean_ap,
        "mean_dist_aps": {"car": 0.25, "bus": float("nan")},
    }
    (place / "metrics_summary.json").write_text(json.dumps(metrics), encoding="utf-8")
    labels = {"rasteriser": "devkit", "line_width": 1.5}
    metrics = {"mean_iou": mean_ap / 2, "iou": {"walkway": 0.5}, "labels": labels}
    (place / "map_metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
