"""Where things lie in the repository."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CFGS = REPOSITORY / "cfgs"
TINY = CFGS / "tiny"
GOLDEN = REPOSITORY / "tests" / "golden"
