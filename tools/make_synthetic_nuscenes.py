"""``nsmae make-synthetic``, also from a checkout that is not installed."""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nsmae_plugin.cli.__main__ import run

main = partial(run, "make-synthetic")

if __name__ == "__main__":
    sys.exit(main())
