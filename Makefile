# `make demo` restores a sample photo, `make test` runs every check; both set up .venv first.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint stress compat examples browser onnx-page

demo: .venv/ready
	$(BIN)/python -m instructir_core restore example_workflows/inputs/noisy.png \
		-i "please remove the noise" -o restored/noisy.png --compare restored/compare.png

test: .venv/ready lint
	$(BIN)/python -m pytest

# Hostile and odd inputs, kills, full disks, no memory, no network, machines that die; its
# results are in docs/reliability.md and docs/scale.md.
stress: .venv/ready
	$(BIN)/pip install --quiet -c constraints.txt bandit ray
	$(BIN)/bandit -q -r -c pyproject.toml instructir_core nodes
	$(BIN)/python -m pytest -m "stress or ray" -v -s tests
	$(BIN)/python -m pytest tests/host/test_silence.py # skipped without COMFYUI_PATH

# A table of the versions that it works with; each gets an environment of its own, in turn.
compat: .venv/ready
	$(BIN)/python tests/compat.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	# The nodes reach the core through the package around both, as in a host: by the name instructir.
	mkdir -p .venv/pack && ln -sfn ../.. .venv/pack/instructir
	cd .venv/pack && ../bin/mypy --config-file ../../pyproject.toml --package instructir.nodes

# After new bundled weights: every picture that shows them. Needs COMFYUI_PATH, COMFYUI_PYTHON
# and a Chromium.
examples: .venv/ready
	$(BIN)/pip install --quiet -c constraints.txt playwright
	$(BIN)/python tests/host/make_examples.py
	$(BIN)/python tests/make_tasks.py docs/tasks.jpg
	$(BIN)/python tests/host/screenshot.py docs/screenshot.png web/docs/graph.jpg

# In a real browser on a real host: COMFYUI_PATH, COMFYUI_PYTHON, and CHROMIUM where it lies elsewhere.
# Screenshots go to build/screenshots.
browser: .venv/ready
	$(BIN)/pip install --quiet -c constraints.txt playwright
	CHROMIUM=$${CHROMIUM:-$$(command -v chromium || command -v google-chrome)} \
		$(BIN)/python -m pytest tests/browser

# The page in docs/browser, in a real browser. Needs npm and a Chromium.
onnx-page: .venv/ready
	npm install --no-save --ignore-scripts onnxruntime-web@1.30.0
	$(BIN)/pip install --quiet -c constraints.txt playwright
	$(BIN)/python -m pytest tests/test_browser.py

# Made again only when what to install changes, so both commands work without a network after it.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[torch,train,dev]"
	touch $@
