# `make run` and `make test` set everything up themselves; without make, see "By hand" in README.md.
PYTHON    ?= python3
WORKSPACE ?= out
BIN       := .venv/bin
INSTALLED := .venv/installed

.PHONY: run test quick soak bench lint types study fixtures lock

run: $(INSTALLED)  ## the main job on dataset/ and test_images/
	$(BIN)/python cli.py run --workspace $(WORKSPACE)

test: $(INSTALLED)  ## all tests, a process for each core
	$(BIN)/python -m pytest -n auto --dist loadfile

quick: $(INSTALLED)  ## the tests that take no cluster, browser or long run
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not cluster and not browser"

soak: $(INSTALLED)  ## long tests, with figures: kills, flipped bits, full disks, odd files; the whole study
	$(BIN)/python -m pytest --soak tests/test_kill.py tests/test_full_disk.py tests/test_flips.py \
		tests/test_cache_properties.py tests/test_odd_images.py tests/test_study.py \
		tests/test_on_ray.py tests/test_local_devices.py

bench: $(INSTALLED)  ## measure against named peers; into benchmarks/RESULTS.md
	for part in engines extraction cache heads modes scale; do $(BIN)/python benchmarks/$$part.py && echo; done \
		| tee benchmarks/RESULTS.md

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/structure.py

types: $(INSTALLED)
	$(BIN)/mypy

# The committed results.csv: the reference study's 24 models on its own images, then ours.
study: $(INSTALLED)
	@test -n "$(DATA)" || { echo "make study DATA=FOLDER: a folder with dataset/ and test_images/"; exit 2; }
	rm -rf out/study
	$(BIN)/python cli.py run --dataset $(DATA)/dataset --test $(DATA)/test_images --workspace out/study \
		--device cpu --device xla-cpu --arch resnet18 --arch vgg16 --arch mobilenet_v3_large
	$(BIN)/python cli.py run --dataset $(DATA)/dataset --test $(DATA)/test_images --workspace out/study \
		--device cpu --device xla-cpu --arch efficientnet_lite0
	cp out/study/results.csv results.csv

# The caches that the tests read; after a change of the cache's format or of the sample images.
fixtures: $(INSTALLED)
	$(BIN)/python scripts/make_fixtures.py

# Needs uv (pip install uv). No URL may get into the lock file.
lock:
	uv pip compile --universal --python-version 3.11 --extra dev --no-header --no-annotate \
		--no-emit-index-url pyproject.toml -o requirements.lock

$(INSTALLED): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Frostline needs Python 3.11 or newer: make PYTHON=python3.11 …" or 0)'
	@echo "Installing into .venv (torch brings its CUDA libraries, about 3 GB: some minutes, once)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --requirement requirements.lock
	@touch $@
