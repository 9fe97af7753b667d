"""Mutated inputs, of every kind of file that the plugin reads.

A kind is a function ``kind(folder) -> draw``, listed in :data:`fuzz.kinds.KINDS`. It writes a good
input into ``folder``; ``draw(rng)`` makes a :class:`fuzz.harness.Case`: an input that is damaged in
one place and what reads it. A case ends in one of three ways, anything else is a fault:

- right: the result is that of the good input, or what the damaged input says;
- refused: an ``NSMAEError`` in one line that names the thing;
- warned: another result, and a warning that names the thing.

``python -m tests.fuzz --count 3000 --seed 0`` runs many of all kinds, the suite some of each.
"""
