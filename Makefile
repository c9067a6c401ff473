# Two commands set everything up: `make demo` (see it work) and `make test` (check everything).
PYTHON ?= python3
VENV := .venv
NATIVE := $(VENV)/bin/python
REFERENCE_VENV := .venv-reference
# One thread per heavy process: two cores with oversubscribed threads run many times slower than one thread each.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export LTX_REFERENCE_PYTHON ?= $(CURDIR)/$(REFERENCE_VENV)/bin/python

.PHONY: demo test setup system native reference lint types tests parity external-cli external-cli-strict bench bench-probe bench-block full-size full-decode full-size-compare false-alarms certify mutants ladder fidelity world-train gate-simulate screenshot clean
.DEFAULT_GOAL := demo

demo: setup
	$(NATIVE) -m parity.demo

test: setup lint types
	$(NATIVE) -m parity.warm
	$(NATIVE) -m pytest tests -q -n 2 -m 'slow or not slow'
	$(NATIVE) -m pytest parity -q -n 2 --dist loadfile -m 'slow or not slow'

setup: native reference

# Debian: OpenBLAS (30 times the speed of the BLAS inside MLX's Linux build), a compiler for MLX's kernels, a browser for the
# report's tests. macOS needs none of them but the browser.
system:
	@.ci/system.sh

native: $(VENV)/.stamp
$(VENV)/.stamp: pyproject.toml | system
	test -x $(NATIVE) || $(PYTHON) -m venv $(VENV)
	$(NATIVE) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

reference: native
	@$(PYTHON) -m reference_bridge.adapters.official.install --venv $(REFERENCE_VENV)

lint:
	$(NATIVE) -m ruff format --check ltx_native reference_bridge parity tests
	$(NATIVE) -m ruff check ltx_native reference_bridge parity tests

types:
	$(NATIVE) -m mypy

tests: native
	$(NATIVE) -m pytest tests -q -n 2

parity: setup
	$(NATIVE) -m pytest parity -q

bench: setup
	$(NATIVE) -m parity.bench

# What recording costs the official denoising step: with sketches, with full tensors of block outputs.
bench-probe: setup
	$(NATIVE) -m parity.probe_bench

# 48 blocks of the true widths in 4 bits (12 GB below .cache) and one denoising step of them, one block in memory.
full-size: native
	test -d .cache/full-size || $(NATIVE) -m parity.world.full_size .cache/full-size
	$(NATIVE) -m parity.world.full_step .cache/full-size

# 97 frames of 480 x 704 through a video decoder of the true size, a few frames in memory.
full-decode: native
	$(NATIVE) -m parity.world.full_decode

# Both sides block by block, one block of float32 weights in memory on each; PLANT=37 makes a mistake in that block.
full-size-compare: setup
	test -d .cache/full-size || $(NATIVE) -m parity.world.full_size .cache/full-size
	$(NATIVE) -m parity.cli compare --stream --checkpoint .cache/full-size -o reports/full-size $(if $(PLANT),--plant $(PLANT))

# One of those blocks on 1,650 video and 101 audio tokens: error, time and memory, native against official.
bench-block: setup
	test -d .cache/full-size || $(NATIVE) -m parity.world.full_size .cache/full-size
	$(NATIVE) -m parity.bench block

# The real ltx-2-mlx, installed outside: served through the bridge, traced, killed, arbitrated, timed. Half an hour; 8.5 GB in .cache.
external-cli: export LTX2_MLX_BIN := $(LTX2_MLX_BIN)
external-cli: setup
	@test -x "$(LTX2_MLX_BIN)" || { echo 'name an installed ltx-2-mlx: make external-cli LTX2_MLX_BIN=PATH' >&2; exit 2; }
	$(NATIVE) -m pytest parity/suites/test_external_cli.py parity/suites/test_bench.py -m external_cli -q -s

# The same CLI with nothing of it changed in memory: a checkpoint of its own sizes. 10 GB in .cache and of memory, 4 to 10 minutes.
external-cli-strict: export LTX2_MLX_BIN := $(LTX2_MLX_BIN)
external-cli-strict: export LTX2_STRICT := 1
external-cli-strict: setup
	@test -x "$(LTX2_MLX_BIN)" || { echo 'name an installed ltx-2-mlx: make external-cli-strict LTX2_MLX_BIN=PATH' >&2; exit 2; }
	$(NATIVE) -m pytest parity/suites/test_external_strict.py -m external_cli -q -s

# Switch every real port mistake on and see whether the harness names it; resumable.
certify: setup
	$(NATIVE) -m parity.certify

# The healthy port over 20 seeds and the case matrix: no site may leave its bound; resumable.
false-alarms: setup
	$(NATIVE) -m parity.false_alarms

# Does the fidelity gate see damage? Every rung of the degradation ladder, as a table; resumable.
ladder: setup
	$(NATIVE) -m parity.cli fidelity --ladder

# The prompt-fidelity gate on the trained world: ladder, then up to 100 prompts on both engines; resumable.
fidelity: setup
	$(NATIVE) -m parity.cli fidelity

# Train the world's checkpoint again with the official modules: about two hours on one core; resumable, seeded.
WORLD_STATE ?= .cache/world-train
WORLD_OUT ?= $(WORLD_STATE)/checkpoint
world-train: setup
	PYTHONPATH=. $(REFERENCE_VENV)/bin/python -m parity.world.train all --state $(WORLD_STATE) --out $(WORLD_OUT) $(WORLD_ARGS)

# Ninety mistakes of one line that the checks were not written for.
mutants: setup
	$(NATIVE) -m parity.faults.mutants

# How often the fidelity gate passes what it should not: replays of recorded scores.
gate-simulate: native
	$(NATIVE) -m parity.simulate

# The report's picture in the README, taken of the last demo.
screenshot: native
	$(NATIVE) tests/report/photograph.py reports/demo/report.html docs/report.png

clean:
	rm -rf $(VENV) $(REFERENCE_VENV) .cache build *.egg-info
