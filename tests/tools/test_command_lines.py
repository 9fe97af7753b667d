"""Command lines of version 0.1.0 are still understood.

``golden/command_lines.json`` holds ``options_of`` of every tool at commit ``ac113cc``.
"""

import json

import pytest

from tests.helpers.command_lines import TOOLS, options_of
from tests.helpers.paths import GOLDEN

RECORDED = json.loads((GOLDEN / "command_lines.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("tool", TOOLS)
def test_every_option_takes_what_it_took(tool):
    today = options_of(tool)
    assert today.keys() >= RECORDED[tool].keys()
    for name, then in RECORDED[tool].items():
        now = today[name]
        # A list in the place of one value takes one as well.
        assert now["values"] in {then["values"], "+" if then["values"] == 1 else None}, name
        assert then["required"] or not now["required"], name
        if "choices" in now:
            assert set(now["choices"]) >= set(then["choices"]), name
    added = today.keys() - RECORDED[tool].keys()
    assert not any(today[name]["required"] for name in added)
