"""List the configurations that come with the package; --cfg_file finds them by these names."""

from nsmae_plugin.config.find import shipped_folder, shipped_names
from nsmae_plugin.runtime.command_line import make_parser


def main(arguments: list[str] | None = None) -> int:
    make_parser(__doc__).parse_args(arguments)
    print(f"in {shipped_folder()}:")
    for name in shipped_names():
        print(f"  {name}")
    return 0
