"""What ``tools/benchmark.py`` measures; nothing here is used by training."""
