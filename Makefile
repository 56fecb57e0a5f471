# The recipes that people and CI share; `make help` lists them.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Static on the C library that the machine has; with --target, or the procedural macros would be static too.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
SUPERVISOR := $(TARGET)/pid1/sendo-supervisor
EMBULK := $(abspath $(TARGET))/embulk
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help build build-supervisor embulk demo test bench lint

help: ## List the recipes
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

build: build-supervisor ## Build the release artifacts: target/pid1/sendo-supervisor (static) and target/release/sendo
	cargo build --locked --release --bin sendo

build-supervisor:
	@tools/need cargo cc
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --profile pid1 --no-default-features --bin sendo-supervisor --target $(HOST)
	@mkdir -p $(TARGET)/pid1 && cp -f $(TARGET)/$(HOST)/pid1/sendo-supervisor $(SUPERVISOR).new && mv -f $(SUPERVISOR).new $(SUPERVISOR)

embulk: ## Compose Embulk from Maven Central into target/embulk
	@tools/need java mvn
	embulk/compose $(EMBULK)

demo: ## From a fresh clone to a real Embulk transfer
	@tools/need cargo cc java mvn gzip
	@$(MAKE) --no-print-directory build embulk
	@demo/run $(TARGET)

test: ## Run every test, with real processes, a real Embulk and real databases
	@tools/need cargo cc java mvn gzip sqlite3 postgres mariadb unshare strace perl runc seccomp busybox dnsmasq qemu cpio kmod xz
	@$(MAKE) --no-print-directory build-supervisor embulk
	SENDO_SUPERVISOR=$(abspath $(SUPERVISOR)) SENDO_EMBULK=$(EMBULK) cargo test --locked --no-fail-fast

bench: ## Measure the supervisor beside its peers, write docs/benchmarks.md, and print what the dispatcher costs
	@tools/need cargo cc unshare tini dumb-init catatonit sqlite3
	@$(MAKE) --no-print-directory build-supervisor
	@[ -x $(TARGET)/peers/bin/pid1 ] || cargo install --quiet --locked --version 0.1.6 --root $(TARGET)/peers pid1-exe
	PATH="$(abspath $(TARGET))/peers/bin:$$PATH" SENDO_SUPERVISOR=$(abspath $(SUPERVISOR)) cargo bench --locked --profile dev --bench supervisor
	cargo bench --locked --profile dev --bench dispatch

lint: ## Check format, lints, licenses and sources, as CI does
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --no-default-features --bin sendo-supervisor -- -D warnings
	cargo deny --locked check bans licenses sources
