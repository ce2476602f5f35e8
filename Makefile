# `make serve` is all that a fresh machine needs; `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# The first of these that really runs and is 3.11 or 3.12.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { command -v "$$python"; break; }; done)

BIN := $(VENV)/bin
# An environment is up to date when it has this file: made by this Python for this pyproject.toml.
stamp = $(VENV)/.$(1)-$(shell { cat pyproject.toml; "$(PYTHON)" -VV; } 2>/dev/null | sha256sum | cut -c1-16 || true)

.PHONY: help setup serve test test-timing test-clients lint types format train-demo eval-demo bench-engine bench-cpu \
	bench-quantised bench-markup bench-peers bench-structured bench-video bench-caches compare-features chaos fuzz load load-ui reloads soak stress overload gpu-check profile notebook clean

help: ## Show this help
	@echo "GLM-4.6V-Flash on Triton Inference Server"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables:"
	@echo "  PYTHON=/path/to/python3.12  the Python to use (3.11 or 3.12; default: the first found)"
	@echo "  VENV=folder                 the virtual environment (default: .venv)"
	@echo "  ARGS=--verbose              with serve: show every line that Triton logs"
	@echo "  PIP_ARGS='...'              more arguments for pip install. The torch of the plain package"
	@echo "                              index is the CUDA build (some GB); a CPU-only one needs"
	@echo "                              PIP_ARGS='--extra-index-url URL' of an index that has it"

setup: ## Make .venv and install what the server needs (quick when nothing changed)
	@$(call install,serve)

serve: setup ## Start Triton, the frontend and the web page, show a first answer; Ctrl-C stops
	@exec $(BIN)/python -m launcher $(ARGS)

notebook: ## JupyterLab with the quick start, for this machine only; run `make serve` beside it
	@$(call install,notebook)
	@exec $(BIN)/jupyter lab --ip 127.0.0.1 --KernelManager.transport=ipc \
		--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
		--LabApp.extension_manager=readonly --LabApp.news_url=None $(ARGS) \
		client/examples/quickstart.ipynb

test: ## Run all tests: unit and contract, then e2e over a real Triton; installs what they need
	@$(call install,test)
	@PYTHON=$(BIN)/python bash tests/run.sh

test-timing: ## Repeat 50 times each test that depends on the order of threads or processes
	@$(call install,test)
	@$(BIN)/python -m pytest -m timing --count 50 --durations 0 --durations-min 10 $(ARGS)

test-clients: ## Run real clients (SDKs, agents, frameworks; GBs) against a server; ARGS=names for some
	@$(call install,serve)
	@PYTHONPATH=tests $(BIN)/python -m clients.serve $(ARGS)

lint: ## Check style, formatting, types, dangerous code and known vulnerabilities
	@$(call install,lint)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYTHONPATH=.:client:frontend:model_repository/generation/1:model_repository/preprocessing/1 \
		$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive \
		launcher client frontend model_repository demo_model benchmarks tools deploy
	$(BIN)/hadolint Dockerfile.triton
	$(BIN)/shellcheck .ci/run $$(git ls-files '*.sh')
	@$(MAKE) --no-print-directory types
	@$(BIN)/python -m tools.audit

types: ## Check types only
	@$(call install,lint)
	$(BIN)/mypy launcher client frontend demo_model benchmarks tools tests
	@for model in client/examples/triton_models/*/1/model.py; do $(BIN)/mypy "$$model"; done
	$(BIN)/mypy model_repository/preprocessing/1/glm_preprocessing model_repository/preprocessing/1/model.py
	$(BIN)/mypy model_repository/generation/1/glm_engine model_repository/generation/1/glm_format model_repository/generation/1/glm_triton model_repository/generation/1/model.py

format: ## Format the code and mend what ruff can mend
	@$(call install,lint)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

train-demo: ## Train the demo checkpoint again (almost four hours on two cores)
	@$(call install,train)
	$(BIN)/python -m demo_model.train

eval-demo: ## Print the demo checkpoint's accuracy per task
	@$(call install,train)
	$(BIN)/python -m demo_model.evaluate

bench-engine: ## The engine alone beside transformers' generate: tokens/s and step times
	@$(call install,bench)
	PYTHONPATH=model_repository/generation/1:model_repository/preprocessing/1 \
		$(BIN)/python -m benchmarks.engine $(ARGS)

bench-peers: ## The whole server beside vLLM, llama.cpp and transformers serve, which it installs (GBs)
	@$(call install,bench)
	@for peer in vllm llamacpp transformers; do \
		PYTHON="$(PYTHON)" bash benchmarks/peers/setup.sh $$peer; done
	$(BIN)/python -m benchmarks.peers $(ARGS)

compare-features: ## The same requests to this server and to vLLM, which it installs (GBs)
	@$(call install,bench)
	@PYTHON="$(PYTHON)" bash benchmarks/peers/setup.sh vllm
	$(BIN)/python -m benchmarks.features $(ARGS)

bench-cpu: ## On a CPU: each way to multiply, and the engine by dtype and threads at half a billion weights
	@$(call install,bench)
	PYTHONPATH=model_repository/generation/1:model_repository/preprocessing/1 \
		$(BIN)/python -m benchmarks.cpu_paths $(ARGS)

bench-quantised: ## Quantised weights: true answers, errors, memory of loading
	@$(call install,bench)
	PYTHONPATH=model_repository/generation/1:model_repository/preprocessing/1 \
		$(BIN)/python -m benchmarks.quantised $(ARGS)

bench-markup: ## What telling thought, text and calls apart costs outside the model
	@$(call install,bench)
	PYTHONPATH=model_repository/generation/1 $(BIN)/python -m benchmarks.markup_cost $(ARGS)

bench-video: ## What reading a video costs, beside decoding all of its frames, and decord where it is installed
	@$(call install,bench)
	PYTHONPATH=model_repository/preprocessing/1 $(BIN)/python -m benchmarks.video_decoding $(ARGS)

bench-caches: ## What caches give away to other tenants (nothing), and what a kept answer saves
	@$(call install,bench)
	$(BIN)/python -m benchmarks.caches $(ARGS)

bench-structured: ## Token masks of structured output: llguidance, which the engine uses, beside xgrammar
	@$(call install,bench)
	PYTHONPATH=model_repository/generation/1 $(BIN)/python -m benchmarks.structured_output

load: ## Ever more users on a server that runs (make serve): throughput, TTFT, TPOT, goodput
	@$(call install,load)
	@$(BIN)/python -m locust --config benchmarks/loadtest/locust.conf --headless --only-summary \
		--html build/load/report.html --csv build/load/load $(ARGS)

load-ui: ## The same by hand, on Locust's page: http://127.0.0.1:8089
	@$(call install,load)
	@$(BIN)/python -m locust --config benchmarks/loadtest/locust.conf --web-host 127.0.0.1 \
		--class-picker $(ARGS)

soak: ## Half an hour of a mixed load: is every request accounted for, is the memory flat?
	@$(call install,bench)
	PYTHONPATH=tests $(BIN)/python -m stress.soak $(ARGS)

stress: ## The long forms of what `make test` does in short: 1,000 schedules, chaos, fuzz, soak, overload
	@$(call install,test)
	STRESS_SCHEDULES=1000 $(BIN)/python -m pytest tests/unit/generation/test_schedules.py
	@$(MAKE) --no-print-directory chaos fuzz reloads soak overload

overload: ## Up to ten times the load that the server sustains: goodput, refusals, nothing lost
	@$(call install,bench)
	PYTHONPATH=tests $(BIN)/python -m stress.overload $(ARGS)

chaos: ## Parts killed, hung and starved under load, clients that leave, restarts: a table
	@$(call install,bench)
	PYTHONPATH=tests $(BIN)/python -m stress.chaos $(ARGS)

reloads: ## A plain tritonserver: 20 reloads under load, poll mode, two versions
	@$(call install,bench)
	PYTHONPATH=tests $(BIN)/python -m stress.reloads $(ARGS)

fuzz: ## Random input to every door of the server: HTTP, gRPC, pictures, schemas
	@$(call install,test)
	PYTHONPATH=tests $(BIN)/python -m stress.fuzz $(ARGS)

gpu-check: ## On a GPU: is it right, and how far from what it could do? ARGS=--dry: in small, on a CPU
	@PYTHONPATH=model_repository/generation/1:model_repository/preprocessing/1 \
		$(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m benchmarks.gpu_check $(ARGS)

profile: ## Where the time of one request goes; against a server that runs (make serve)
	@$(call install,bench)
	$(BIN)/python -m benchmarks.request_profile $(ARGS)

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Makes the environment if need be and installs the extra $(1) into it.
define install
stamp="$(call stamp,$(1))"; \
if [ ! -e "$$stamp" ]; then bash launcher/setup.sh "$(PYTHON)" "$(VENV)" "$(1)" $(PIP_ARGS) && touch "$$stamp"; fi
endef
