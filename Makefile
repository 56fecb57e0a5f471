# The recipes that people and CI share; `make help` lists them.

SHELL := /bin/bash
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Static on the C library that the machine has; with --target, or the procedural macros would be static too.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
SUPERVISOR := $(TARGET)/pid1/sendo-supervisor
EMBULK := $(abspath $(TARGET))/embulk
ELASTICMQ := $(abspath $(TARGET))/elasticmq
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help build build-supervisor embulk elasticmq images kubernetes toxiproxy demo test bench lint

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

elasticmq: $(ELASTICMQ)/lib ## Fetch ElasticMQ (SQS for the tests) from Maven Central into target/elasticmq

$(ELASTICMQ)/lib: tests/env/elasticmq/pom.xml
	@tools/need java mvn
	rm -rf $(ELASTICMQ) && mkdir -p $(ELASTICMQ)
	mvn -q -B -f $< -Delasticmq.lib=$(ELASTICMQ)/part package
	mv $(ELASTICMQ)/part $@ && touch $@

demo: ## From a fresh clone to a real Embulk transfer
	@tools/need cargo cc java mvn gzip
	@$(MAKE) --no-print-directory build embulk
	@demo/run $(TARGET)

images: ## Build the worker and control images into target/images (BASE=debian:12-slim takes that in place of one made here)
	@tools/need podman runc mmdebstrap cargo cc java mvn gzip
	@$(MAKE) --no-print-directory build embulk
	docker/build $(abspath $(TARGET))

kubernetes: ## Build a real Kubernetes into ~/.cache/sendo, once per machine
	@tools/kubernetes >/dev/null

toxiproxy: ## Build the proxy that spoils connections for the tests into ~/.cache/sendo, once per machine
	@tools/toxiproxy >/dev/null

test: ## Run every test, with real processes, a real Embulk, real queues and databases, and a real Kubernetes
	@tools/need cargo cc java mvn gzip curl sqlite3 postgres mariadb unshare strace perl runc seccomp busybox dnsmasq qemu cpio kmod xz openssl setpriv containerd cni ip
	@$(MAKE) --no-print-directory kubernetes toxiproxy images elasticmq
	SENDO_SUPERVISOR=$(abspath $(SUPERVISOR)) SENDO_EMBULK=$(EMBULK) SENDO_ELASTICMQ=$(ELASTICMQ) cargo test --locked --no-fail-fast

bench: ## Measure the supervisor beside its peers, the ledger, the dispatcher, and the way from SQS to Pods; write docs/benchmarks.md
	@tools/need cargo cc java mvn openssl unshare tini dumb-init catatonit postgres mariadb sqlite3 containerd cni ip busybox
	@$(MAKE) --no-print-directory kubernetes elasticmq images
	@[ -x $(TARGET)/peers/bin/pid1 ] || cargo install --quiet --locked --version 0.1.6 --root $(TARGET)/peers pid1-exe
	PATH="$(abspath $(TARGET))/peers/bin:$$PATH" SENDO_SUPERVISOR=$(abspath $(SUPERVISOR)) cargo bench --locked --profile dev --bench supervisor
	cargo bench --locked --profile dev --bench ledger
	cargo bench --locked --profile dev --bench dispatch
	cargo bench --locked --profile dev --bench connections
	SENDO_SUPERVISOR=$(abspath $(SUPERVISOR)) SENDO_ELASTICMQ=$(ELASTICMQ) cargo bench --locked --bench speed

lint: ## Check format, lints, licenses and sources, as CI does
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --no-default-features --bin sendo-supervisor -- -D warnings
	cargo deny --locked check bans licenses sources
