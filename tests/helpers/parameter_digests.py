"""The parameters of a network in a few numbers, to compare it with one of an earlier version."""

import hashlib

from nsmae_plugin import host
from tests.helpers.dataset_specification import specification_of


def parameter_digests(config) -> dict[str, list]:
    """Slot -> number of tensors, and a hash of their names and shapes in their order.

    The order counts, because the optimiser's state in a checkpoint is by position.
    """
    names = len(config.CLASS_NAMES)
    model = host.build_network(config.MODEL, names, specification_of(config))
    lines: dict[str, list[str]] = {}
    for name, value in model.state_dict().items():
        lines.setdefault(name.partition(".")[0], []).append(f"{name} {list(value.shape)}")
    return {slot: [len(found), _hash(found)] for slot, found in lines.items()}


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
