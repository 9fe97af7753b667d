"""``python -m nsmae_plugin.host.openpcdet SCRIPT ...``: run a script of OpenPCDet, uncompiled."""

import sys

from nsmae_plugin.errors import NSMAEError
from nsmae_plugin.host.openpcdet.run import main
from nsmae_plugin.training import distributed

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except NSMAEError as error:
        sys.exit(f"error: {error}")
    finally:
        distributed.stop()
