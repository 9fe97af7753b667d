"""Network modules with OpenPCDet's constructors, parameter names, shapes and behaviour.

Each maps ``batch_dict`` to ``batch_dict`` and documents the keys that it reads and writes.
"""
