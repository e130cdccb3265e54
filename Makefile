# Two commands do everything on a fresh machine: `make run` and `make test`.
# Needed: Python 3.11 or newer and a package index. Tests on Apache Kafka also need Maven and Java.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
DATA_DIR ?= .data
# More than cores: what takes long on Kafka mostly waits.
TEST_PROCESSES ?= 6

.PHONY: run demo test test-compiled check format lock bench compiled faults kafka registry clean

run: .venv/run.stamp ## start the embedded default, send the samples, show them, go on serving
	$(BIN)/pipeline demo --serve --data-dir $(DATA_DIR)

demo: .venv/run.stamp ## the same, but stop then: exit 0 when the ledger balances, 1 when not
	$(BIN)/pipeline demo --data-dir $(DATA_DIR)

test: .venv/dev.stamp ## all tests; PIPELINE_REQUIRE_KAFKA=1 demands those on Apache Kafka
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-compiled: compiled ## the tests of what is compiled, on it; it stays until make clean
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile tests/session tests/stages tests/wire tests/contract

check: .venv/dev.stamp ## format, lint, types, import rules, generated files, schemas against released ones, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pipeline.contract.generate --check
	$(BIN)/python -m pipeline.contract.released
	$(BIN)/python -m docs.generate --check

format: .venv/dev.stamp ## write what check would complain of, where a tool can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python -m pipeline.contract.generate
	$(BIN)/python -m docs.generate

bench: .venv/dev.stamp ## benchmarks, as ratios of one run
	$(BIN)/python -m bench

compiled: .venv/dev.stamp ## the hot path compiled by mypyc, in place (needs a C compiler); undo: make clean
	$(BIN)/python -m deploy.compiled

faults: .venv/dev.stamp ## the fault matrix on Apache Kafka; SHORT=1: under 5 minutes, SEED=…, ONLY=worker|ingest|…
	$(BIN)/python -m faults $(if $(SHORT),--short) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

kafka: .venv/dev.stamp ## a local Apache Kafka, until Ctrl-C (needs Maven and Java 17)
	$(BIN)/python -m deploy.servers kafka

registry: .venv/dev.stamp ## a local Apicurio Registry, until Ctrl-C (needs Maven and Java 21)
	$(BIN)/python -m deploy.servers registry

lock: ## resolve the locked requirements anew (needs uv)
	uv pip compile -q --no-emit-index-url --generate-hashes --universal --python-version 3.11 \
		--custom-compile-command "make lock" pyproject.toml -o requirements/run.txt
	uv pip compile -q --no-emit-index-url --generate-hashes --universal --python-version 3.11 \
		--extra otel -c requirements/run.txt --custom-compile-command "make lock" pyproject.toml -o requirements/otel.txt
	uv pip compile -q --no-emit-index-url --generate-hashes --universal --python-version 3.11 \
		--extra dev --extra otel -c requirements/run.txt --custom-compile-command "make lock" pyproject.toml -o requirements/dev.txt
	uv pip compile -q --no-emit-index-url --generate-hashes --universal --python-version 3.11 \
		--extra compiled -c requirements/dev.txt --custom-compile-command "make lock" pyproject.toml -o requirements/compiled.txt

clean: ## remove what was installed and built, never the data
	find pipeline -name '*.so' -delete
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build

.venv/run.stamp: requirements/run.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (set PYTHON=/path/to/python3)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/dev.stamp: .venv/run.stamp requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@
