# `make` alone lists the targets. CONTRIBUTING.md says when to use which.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always 2>/dev/null || echo unknown)
FUZZTIME ?= 10s
# full (less than 15 minutes; writes docs/BENCHMARKS.md) or quick (less than 2; writes .cache/bench/BENCHMARKS.md).
BENCH ?= full
# What goroutines share, and stays quick under the race detector.
RACE := ./lists ./lists/store ./userspace/...
# Not under it: millions, and allocations, which it adds to.
SLOW_OR_EXACT := Million|AllocatesNothing

.PHONY: help build demo test test-race test-kernels verify generate fuzz gapless faults million soak differential bench bench-check bench-l7 bench-l7-check l7-corpus install uninstall clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/portcullis and bin/cli.sh
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/portcullis ./cmd/portcullis
	@cmp -s deploy/cli.sh bin/cli.sh || install -m 0755 deploy/cli.sh bin/cli.sh

demo: build ## show the commands drop and pass real packets (root; about 10 s)
	@go build -o bin/demo ./testenv/demo
	@exec bin/demo

test: build ## run every test, older kernels included (root; REQUIRE_ROOT=1 forbids skipping)
	@.ci/deps test
	go test -count=1 -timeout 20m ./...
	@$(MAKE) test-race
	@$(MAKE) test-kernels

test-race: ## run the tests of the packages that share memory under the race detector
	CGO_ENABLED=1 go test -race -count=1 -timeout 10m -skip '$(SLOW_OR_EXACT)' $(RACE)

test-kernels: ## run the packet tables, and what attaches, on Linux 6.1 and 6.12 in QEMU
	@.ci/deps kernels
	.ci/kernels

verify: ## check what a machine can check of the sources: generated files, formats, analysers, house rules
	@.ci/deps verify
	@.ci/verify

generate: ## regenerate the BPF objects and the documents made from the sources
	@.ci/deps verify
	go generate ./...

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@FUZZTIME=$(FUZZTIME) .ci/fuzz

# Endurance: `make test` runs each of these in a short form. Each prints its figures.
ENDURE := go test -count=1 -timeout 3h -v

gapless: build ## exchange, kill, recreate, replace and move under traffic, by the hundred (root; about 40 minutes)
	@.ci/deps test
	$(ENDURE) ./testenv/scenario -run '^TestGapless' -long

faults: build ## let every bpf, write, fsync and rename call of a daemon fail, one after the other (root; an hour; CALL=fsync FAULTS=1-50)
	@.ci/deps test
	$(ENDURE) ./testenv/scenario -run '^TestFaults$$/^$(or $(CALL),.*)$$' -long -faults '$(FAULTS)'

million: build ## ten million addresses through a daemon; the index's size for lists of every shape (root; about 3 minutes)
	@.ci/deps test
	$(ENDURE) ./testenv/scenario -run '^TestTenMillion$$' -long
	$(ENDURE) ./loader/compile -run '^TestIndexSizeMillion$$' -long

soak: build ## a million random operations against a model, restarts between (root; about 10 minutes)
	@.ci/deps test
	$(ENDURE) ./testenv/scenario -run '^TestSoak$$' -long

differential: ## compare a billion verdicts of index, LPM tries, reference matcher and bart while lists change (root)
	$(ENDURE) ./testenv/differential -verdicts 1000000000

bench: build ## measure packets and changes beside nftables, ipset, xdp-filter (root; BENCH=quick for a short one)
	@.ci/deps bench
	@go build -o bin/bench ./testenv/bench
	@exec bin/bench -plan $(BENCH) -out $(if $(filter full,$(BENCH)),docs,.cache/bench)

bench-check: ## a short run that fails when a ratio is beyond its floor (root; 2 to 3 minutes)
	@.ci/deps bench
	@go build -o bin/bench ./testenv/bench
	@exec bin/bench -plan check -out ""

bench-l7: ## measure HTTP requests beside nginx, HAProxy and Caddy (about 8 minutes; writes docs/BENCHMARKS-L7.md)
	@.ci/deps bench-l7
	@go build -o bin/benchl7 ./testenv/benchl7
	@exec bin/benchl7 -plan $(BENCH) -out $(if $(filter full,$(BENCH)),docs,.cache/bench)

bench-l7-check: ## a short run of it that fails when a ratio is below its floor, or memory grows (about a minute)
	@.ci/deps bench-l7
	@go build -o bin/benchl7 ./testenv/benchl7
	@exec bin/benchl7 -plan check -out ""

l7-corpus: ## send hard requests through us, and through rules for nginx and HAProxy (about 10 s; writes docs/L7-CORPUS.md)
	@.ci/deps test
	L7_CORPUS=$(CURDIR)/docs/L7-CORPUS.md go test -count=1 -run TestCorpus ./testenv/gateways

install: build ## install below DESTDIR (default /): binary, cli.sh, man page, completions, unit, configuration
	@deploy/install.sh

uninstall: ## remove what install put in place; lists and configuration stay
	@deploy/install.sh uninstall

clean: ## remove what was built
	rm -rf bin
