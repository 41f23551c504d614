# Two commands matter: `make serve` and `make test`. Both do all the set-up themselves.
PYTHON ?= python3
MODEL ?= smollm2
HOST ?= 127.0.0.1
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(shell find src native -type f -not -name '*.so' -not -path '*/__pycache__/*')

MINUTES ?= 5

.PHONY: serve test check sanitize format soak bench bench-peers bench-scaling clean

serve: $(VENV)/.serve
	@$(BIN)/legato serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

# Fast ones first.
test: $(VENV)/.test
	@$(BIN)/python -m pytest tests/unit tests/server tests/fuzz tests/models $(ARGS)

check: $(VENV)/.check
	@$(BIN)/ruff format --check src tests benchmarks examples scripts
	@$(BIN)/ruff check src tests benchmarks examples scripts
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_rooms.py
	@find native -name '*.cc' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run --Werror

# Native tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.
sanitize: $(VENV)/.serve
	@PATH="$(abspath $(BIN)):$$PATH" scripts/sanitize.sh

format: $(VENV)/.check
	@$(BIN)/ruff format src tests benchmarks examples scripts
	@$(BIN)/ruff check --fix src tests benchmarks examples scripts
	@find native -name '*.cc' -o -name '*.h' | xargs $(BIN)/clang-format -i

# Everything at once against a server; a minute of it is among the tests, five are a part of .ci/run.
soak: $(VENV)/.test
	@$(BIN)/python scripts/soak.py --minutes $(MINUTES) $(ARGS)

bench: $(VENV)/.serve
	@$(BIN)/python benchmarks/floor.py $(ARGS)

# Beside llama.cpp, vLLM and OpenVINO GenAI, each in an environment of its own (about 6 GB, once).
bench-peers: $(VENV)/.serve
	@$(BIN)/python benchmarks/race.py $(ARGS)

bench-scaling: $(VENV)/.serve
	@$(BIN)/python benchmarks/scaling.py $(ARGS)

$(VENV)/.serve: $(SOURCES) scripts/setup.py
	@$(PYTHON) scripts/setup.py serve $(VENV)

$(VENV)/.test: $(SOURCES) scripts/setup.py
	@$(PYTHON) scripts/setup.py test $(VENV)

$(VENV)/.check: pyproject.toml scripts/setup.py
	@$(PYTHON) scripts/setup.py check $(VENV)

clean:
	rm -rf $(VENV) build
