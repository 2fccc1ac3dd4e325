# Sidecore: `make demo` shows it, `make test` checks it. `make help` lists the rest.

# rustup installs here; a fresh shell may not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

BUILT := $${CARGO_TARGET_DIR:-target}

# For programs that make namespaces, interfaces and AF_XDP sockets; `run-tests` does the same for the end-to-end tests.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo -E)

# What measures is built with the same features whatever is to be measured, so that nothing is compiled twice.
MEASURE := cargo build --release -p sidecore -p sidecore-exits -p sidecore-experiments -p sidecore-simulator -p sidecore-tests -p synthetic-guest

.PHONY: help build release demo lint test test-full soak-handover soak-sleeps screenshots bench-instr bench-timing bench-accounting bench-capture bench-peers exits experiments simulate dashboards-up docs clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1|/p' Makefile | while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

build: ## Install what building needs, and build the switch
	@scripts/check-rust.sh
	@scripts/install-deps.sh build
	cargo build -p sidecore

release: ## The same, optimised for use
	@scripts/check-rust.sh
	@scripts/install-deps.sh build
	cargo build --release -p sidecore

demo: ## Two QEMU guests and an outside host exchange traffic through the switch, for about 20 s
	@scripts/check-rust.sh
	@scripts/install-deps.sh demo
	cargo build -p sidecore -p sidecore-tests
	@$(SUDO) "$(BUILT)/debug/sidecore-demo"

lint: ## Check formatting and clippy's opinion (warnings are errors)
	@scripts/check-rust.sh lint
	@scripts/install-deps.sh build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

test: lint ## Checks, unit, property and end-to-end tests, 22 to 38 minutes on two CPUs
	@scripts/install-deps.sh test
	cargo test --workspace --no-run
	@"$(BUILT)/debug/run-tests"

test-full: export SIDECORE_TEST_FULL := 1
test-full: export PROPTEST_CASES := 4096
test-full: test ## The same with 64 MiB transfers and longer property tests

screenshots: ## Make the README's picture of the switch's page, of a run with synthetic guests, about a minute
	@scripts/check-rust.sh
	@scripts/install-deps.sh page
	cargo build -p sidecore -p synthetic-guest -p sidecore-tests
	@$(SUDO) "$(BUILT)/debug/screenshots"

soak-handover: MOVES ?= 10000
soak-handover: SEED ?= 1
soak-handover: BUILD = cargo build --release -p sidecore -p synthetic-guest -p sidecore-tests
soak-handover: ## Move queue pairs under verified traffic, MOVES=10000 times; a switch that lacks the ordering token comes first
	@scripts/check-rust.sh
	@scripts/install-deps.sh build
	$(BUILD) --features sidecore/fault-injection
	@cp -f "$(BUILT)/release/sidecore" "$(BUILT)/release/sidecore-faulty"
	$(BUILD)
	@echo "Without the ordering token (errors have to be seen):"
	@"$(BUILT)/release/soak-handover" --moves 600 --seed $(SEED) --without-token
	@echo "As it is:"
	@"$(BUILT)/release/soak-handover" --moves $(MOVES) --seed $(SEED)

soak-sleeps: export SIDECORE_SLEEPS ?= 250000
soak-sleeps: ## Have packets end millions of sleeps, SIDECORE_SLEEPS=250000 in each of ten cases; none may be missed
	@scripts/check-rust.sh
	@scripts/install-deps.sh build
	cargo build -p sidecore
	cargo test -p sidecore-tests --test switching -- --nocapture --test-threads 1 _hear

bench-instr: ## Count the instructions a packet costs, and hold them against their budgets
	@scripts/check-rust.sh
	@scripts/install-deps.sh bench-instr
	cargo run --release -p sidecore-bench

bench-timing: ## Time what idle neighbours and a second core cost
	@scripts/check-rust.sh
	@scripts/install-deps.sh build
	@ulimit -n "$$(ulimit -H -n)" && cargo run --release -p sidecore-bench -- time

bench-accounting: ## Time what load accounting costs, in bursts of 32 and of 1
	@scripts/check-rust.sh
	@scripts/install-deps.sh build
	cargo run --release -p sidecore-bench --features optional-accounting -- accounting

bench-capture: ## Time what a capture costs the core that forwards
	@scripts/check-rust.sh
	@scripts/install-deps.sh build
	cargo run --release -p sidecore-bench -- capture

bench-peers: ## Compare with OVS-DPDK and testpmd (FULL=1: everything; ROWS=v2v-tso,p2v-64: only these)
	@scripts/check-rust.sh
	@scripts/install-deps.sh bench-peers
	$(MEASURE) --bin sidecore --bin ringgen --bin bench-peers
	@$(SUDO) "$(BUILT)/release/bench-peers"

exits: ## Count VM exits per packet with KVM's own counters: a table, and target/experiments/exits.json (QUICK=1: fewer)
	@scripts/check-rust.sh
	@scripts/install-deps.sh $(if $(wildcard /dev/kvm),demo,build)
	$(MEASURE) --bin sidecore --bin exits --bin guest-traffic
	@$(SUDO) "$(BUILT)/release/exits" $(if $(filter-out 0,$(QUICK)),--quick)

experiments: ## How Sidecore behaves with many guests, with a report (QUICK=1: less than ten minutes; ONLY=saturation,answer: only these)
	@scripts/check-rust.sh
	@scripts/install-deps.sh build
	$(MEASURE) --bin sidecore --bin exits --bin guest-traffic --bin ringgen --bin sidecore-simulate --bin experiments
	@[ -n "$(ONLY)" ] || $(MAKE) exits || echo "What make exits could count is in the report all the same."
	@$(SUDO) "$(BUILT)/release/experiments"

simulate: ## Compare scheduling policies in a model of the switch: tables and pictures in target/simulate
	@scripts/check-rust.sh
	cargo build --release -p sidecore-simulator
	@"$(BUILT)/release/sidecore-simulate"

dashboards-up: SWITCH ?= 127.0.0.1:9464
dashboards-up: ## Prometheus, and Grafana where installed, looking at the switch at SWITCH=127.0.0.1:9464; Ctrl-C ends both
	@dashboards/up --switch=$(SWITCH)

docs: ## Write docs/metrics.md anew, from the catalogue of metrics
	cargo build -q -p sidecore
	@"$(BUILT)/debug/sidecore" metrics list --markdown > docs/metrics.md.new && mv docs/metrics.md.new docs/metrics.md

clean: ## Remove everything that was built
	cargo clean
