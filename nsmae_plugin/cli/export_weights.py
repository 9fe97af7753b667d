"""Write the encoders of a checkpoint for detectors to start from, here or in stock OpenPCDet.

Writes OUT (.pth), its manifest as JSON beside it, and with --safetensors a .safetensors file.
"""

from pathlib import Path

from nsmae_plugin.config.find import find_config
from nsmae_plugin.runtime.command_line import make_parser
from nsmae_plugin.training.export import export


def main(arguments: list[str] | None = None) -> int:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--ckpt", type=Path, required=True, help="checkpoint, or a directory: the newest in it")
    add("--out", type=Path, default=Path("nsmae_weights.pth"), help="default: %(default)s")
    add("--safetensors", action="store_true", help="also write OUT as .safetensors")
    add(
        "--cfg_file",
        type=find_config,
        help="of the run; default: the one that lies above the checkpoint",
    )
    manifest, written = export(**vars(parser.parse_args(arguments)))
    origin = manifest["config"] or manifest["checkpoint"]
    print(f"{manifest['modality']} encoders of {origin}, epoch {manifest['epoch']}")
    for slot, names in manifest["slots"].items():
        print(f"  {slot:<20} {len(names):>4} tensors")
    if manifest["inputs"] is None:
        print("the configuration of the run was not found; --cfg_file adds it to the manifest")
    print("wrote", ", ".join(str(path) for path in written))
    return 0
