"""``nsmae label-efficiency``, from a checkout: its flags, and the Python function ``main``."""

import sys
from functools import partial

from nsmae_plugin.cli.__main__ import run

main = partial(run, "label-efficiency")

if __name__ == "__main__":
    sys.exit(main())
