"""``python -m nsmae_plugin.host.openpcdet SCRIPT ...``: run a script of OpenPCDet, uncompiled."""

import sys

from nsmae_plugin.host.openpcdet import run
from nsmae_plugin.runtime import distributed
from nsmae_plugin.runtime.command_line import errors_in_one_line


@errors_in_one_line
def main() -> int:
    try:
        run.main(sys.argv[1:])
    finally:
        distributed.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
