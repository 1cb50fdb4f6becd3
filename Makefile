# gantry: `make demo` shows the main job end to end, `make test` runs everything that CI runs.
# Both install the Debian packages they need and can be run again.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

MUSL    := x86_64-unknown-linux-musl
TARGET  ?= $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
# The programs as the tests and the demo run them, side by side as they are installed.
BIN     := $(TARGET)/gantry-bin
PREFIX  ?= /usr/local
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)

.PHONY: help demo cri-demo test powercut check fmt clippy doc deny unit bench install deps deps-build build build-release

help: ## What there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

deps-build: ## The Debian packages and the Rust target that a build needs
	@tests/deps.sh build

deps: ## All Debian packages that the demo, the tests and the benchmarks need
	@tests/deps.sh all

build: deps-build ## Build the programs for the tests into target/gantry-bin
	cargo build --locked -p daemon -p client
	cargo build --locked -p shim --profile shim --target $(MUSL)
	@tests/gather.sh "$(TARGET)/debug" "$(TARGET)/$(MUSL)/shim" "$(BIN)"

build-release: deps-build ## Build the programs as they are installed
	GANTRY_REVISION="$$(git describe --always --dirty 2>/dev/null || echo unknown)" cargo build --locked --release -p daemon -p client
	cargo build --locked -p shim --profile shim --target $(MUSL)
	@tests/gather.sh "$(TARGET)/release" "$(TARGET)/$(MUSL)/shim" "$(TARGET)/gantry-release"

install: build-release ## Install into PREFIX (default /usr/local), with a systemd unit
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/lib/systemd/system"
	install -m 0755 "$(TARGET)/gantry-release/gantryd" "$(TARGET)/gantry-release/gantry" "$(TARGET)/gantry-release/gantry-shim" "$(DESTDIR)$(PREFIX)/bin/"
	ln -sf gantry-shim "$(DESTDIR)$(PREFIX)/bin/containerd-shim-gantry-v1"
	sed 's|@PREFIX@|$(PREFIX)|g' daemon/gantryd.service > "$(DESTDIR)$(PREFIX)/lib/systemd/system/gantryd.service"

demo: deps build-release ## From nothing to a running container, with a private daemon
	@GANTRY_BIN="$(TARGET)/gantry-release" tests/demo.sh

cri-demo: deps build-release ## A pod of two containers with a network, for Kubernetes, with a private daemon
	@GANTRY_BIN="$(TARGET)/gantry-release" tests/cri-demo.sh

fmt: ## Is the code formatted?
	cargo fmt --all --check

clippy: deps-build ## Lints, warnings are errors
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

doc: deps-build ## The documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

deny: ## Licences, sources and duplicates of the dependencies (advisories where their database can be reached)
	@tests/deny.sh

check: fmt clippy doc deny ## Everything that needs no container

unit: deps build ## Unit, contract, integration and crash tests
ifneq ($(NEXTEST),)
	GANTRY_BIN="$(BIN)" cargo nextest run --locked --workspace --all-features --no-fail-fast
else
	GANTRY_BIN="$(BIN)" cargo test --locked --workspace --all-features --no-fail-fast --lib --bins --tests -- --test-threads=2
endif

test: deps check unit ## All of it: what CI runs
	@echo "make test: everything passed"

CUTS ?= 40
powercut: deps build ## Take the power away from gantryd, and then from Debian's containerd, CUTS times each
	GANTRY_BIN="$(BIN)" GANTRY_POWERCUTS=$(CUTS) cargo test --locked -p tests --test powercut -- --nocapture
	GANTRY_BIN="$(BIN)" GANTRY_POWERCUTS=$(CUTS) GANTRY_POWERCUT_DAEMON=containerd cargo test --locked -p tests --test powercut -- --nocapture

bench: deps build-release ## Compare with Debian's containerd, on this machine, in one run (BENCH='tasks --json FILE')
	GANTRY_BIN="$(TARGET)/gantry-release" cargo run --locked --release -p tests --bin gantry-bench -- $(BENCH)
