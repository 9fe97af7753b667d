# make demo    set up, then pre-train on the synthetic dataset and draw the reconstructions
# make checks  set up, then format, lint, types and tests; on both hosts with OPENPCDET_ROOT
PYTHON ?= python3
VENV ?= .venv
DEMO_DATA ?= data/synthetic
DEMO_OUTPUT ?= output/demo

BIN = $(VENV)/bin
READY = $(VENV)/.ready
DEMO_CFG = cfgs/tiny/nsmae_pretrain.yaml

.PHONY: demo checks format lint types test

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[cpu,dev,openpcdet]"
	touch $@

demo: $(READY) $(DEMO_DATA)/v1.0-mini/nuscenes_infos_3sweeps_train.pkl
	$(BIN)/python -m nsmae_plugin.doctor
	$(BIN)/python tools/train.py --cfg_file $(DEMO_CFG) --extra_tag demo --workers 0 \
		--fix_random_seed --set DATA_CONFIG.DATA_PATH $(DEMO_DATA)
	$(BIN)/python tools/visualize.py --cfg_file $(DEMO_CFG) --split test --index 0 \
		--ckpt output/tiny/nsmae_pretrain/demo/ckpt --output_dir $(DEMO_OUTPUT) \
		--set DATA_CONFIG.DATA_PATH $(DEMO_DATA)
	@echo "Reconstructions of a held-out sample: $(DEMO_OUTPUT)"

$(DEMO_DATA)/v1.0-mini/nuscenes_infos_3sweeps_train.pkl: | $(READY)
	$(BIN)/python tools/make_synthetic_nuscenes.py --out $(DEMO_DATA)
	$(BIN)/python tools/create_infos.py --data_path $(DEMO_DATA) --version v1.0-mini \
		--max_sweeps 3 --with_cam

checks: format lint types test

format: $(READY)
	$(BIN)/python -m ruff format --check .

lint: $(READY)
	$(BIN)/python -m ruff check .

types: $(READY)
	$(BIN)/python -m mypy

# One thread a process: two processes with two threads each would fight for two cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
# No host has a part in what these test.
HOSTLESS = geometry ops synthetic visualization

test: $(READY)
ifneq ($(NSMAE_HOST),)
	$(PYTEST)
else ifneq ($(OPENPCDET_ROOT),)
	NSMAE_HOST=builtin $(PYTEST) -m "not openpcdet"
	NSMAE_HOST=openpcdet $(PYTEST) $(HOSTLESS:%=--ignore=tests/%)
else
	$(PYTEST)
endif
