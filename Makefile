# snapd-ctr. `make help` lists the targets; `make demo` and `make test` each set up all that they need, as root.

GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
FUZZTIME ?= 10s
SEEDS    ?= 10000
PACKAGES ?= ./...
TESTFLAGS ?=

# Everything that is made or fetched lies in these two. CRIU is kept in a prefix of its own, away from the distribution's.
CACHE    := $(CURDIR)/.cache
BIN      := $(CURDIR)/bin
CRIU_PREFIX ?= $(CACHE)/prefix

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   = -s -w -X main.version=$(VERSION)
# Asked anew in each recipe: `setup` may have installed libseccomp since make started.
TAGS      = $(shell pkg-config --exists libseccomp 2>/dev/null && echo seccomp)
STEP     := scripts/step

# What the programs under test and the tests themselves need to know.
export SNAPD_CTR_CACHE  ?= $(CACHE)
export SNAPD_CTR_PREFIX ?= $(CRIU_PREFIX)
RUNTIME_ENV = PATH="$(BIN):$(CRIU_PREFIX)/sbin:$$PATH:/usr/sbin:/sbin" \
  SNAPD_CTR_CRIU="$(CRIU_PREFIX)/sbin/criu" SNAPD_CTR_SHIM="$(BIN)/snapd-ctr-shim"

.NOTPARALLEL:
.PHONY: help all setup setup-test setup-lint setup-engines build rootfs test oracle lint demo bench fuzz install uninstall clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-16s %s\n", $$1, $$2 }'

all: build

setup: ## install what building and running needs (Debian packages, CRIU 4.2 or newer)
	@$(STEP) "packages" scripts/setup build run
	@$(STEP) "criu" scripts/setup-criu "$(CRIU_PREFIX)"

setup-test: setup ## … and what the tests, the demo and the benchmark need
	@$(STEP) "packages for tests" scripts/setup test

setup-lint:
	@$(STEP) "packages for lint" scripts/setup build lint

setup-engines: ## … and Docker, containerd and podman, whose containers the tests then snapshot as well
	@$(STEP) "container engines" scripts/setup engines

build: ## build bin/snapd-ctr (static), bin/snapd-ctr-shim and bin/snapd-ctr-stub
	@$(STEP) "build snapd-ctr-stub" scripts/stub $(BIN)/snapd-ctr-stub
	@$(STEP) "build the plugin of CRIU" scripts/criu-plugin $(BIN)/criu-plugins
	@$(STEP) "build snapd-ctr" env CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/snapd-ctr ./cmd/snapd-ctr
	@$(STEP) "build snapd-ctr-shim" env CGO_ENABLED=1 $(GO) build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $(BIN)/snapd-ctr-shim ./cmd/snapd-ctr-shim
	@if [ -x "$(CRIU_PREFIX)/sbin/criu" ]; then ln -sfn "$(CRIU_PREFIX)/sbin/criu" $(BIN)/criu; fi

rootfs: ## assemble the root file systems for tests and demo (cached)
	@for name in busybox python full; do $(STEP) "rootfs $$name" scripts/rootfs $$name >/dev/null || exit; done

test: setup-test build rootfs ## run every test, as root
	@$(STEP) "checkpointctl" env GO="$(GO)" scripts/checkpointctl >/dev/null
	@$(STEP) "test" env $(RUNTIME_ENV) GO="$(GO)" scripts/test -race -p 2 -timeout 20m -tags '$(TAGS)' $(TESTFLAGS) $(PACKAGES)

oracle: setup-test build ## compare both engines' clones of SEEDS random processes (10000; or which: 2001-10000)
	@$(STEP) "rootfs busybox" scripts/rootfs busybox >/dev/null
	@$(STEP) "oracle" env $(RUNTIME_ENV) GO="$(GO)" scripts/oracle "$(SEEDS)" -race -tags '$(TAGS)' $(TESTFLAGS)

lint: setup-lint ## gofmt, go vet, staticcheck, golangci-lint, shellcheck
	@TAGS='$(TAGS)' GO="$(GO)" scripts/lint

demo: setup-test build ## run, snapshot and clone a warmed Python server, and print what it took
	@$(STEP) "rootfs python" scripts/rootfs python >/dev/null
	@env $(RUNTIME_ENV) SNAPD_CTR_ROOTFS="$$(scripts/rootfs python)" $(GO) run ./demo

bench: setup-test build ## measure both engines and runc, side by side, in 25 minutes (BENCHFLAGS="-quick", "-only burst")
	@for name in busybox python full; do $(STEP) "rootfs $$name" scripts/rootfs $$name >/dev/null || exit; done
	@env $(RUNTIME_ENV) $(GO) run ./bench -bin $(BIN) -criu "$(CRIU_PREFIX)/sbin/criu" -json bench/results.json \
	  -busybox "$$(scripts/rootfs busybox)" -python "$$(scripts/rootfs python)" -full "$$(scripts/rootfs full)" $(BENCHFLAGS)

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@GO="$(GO)" FUZZTIME="$(FUZZTIME)" scripts/fuzz -tags '$(TAGS)' $(PACKAGES)

install: build ## install below DESTDIR and PREFIX (/usr/local): programs, CRIU, manual pages, completions
	@scripts/install install "$(BIN)" "$(DESTDIR)$(PREFIX)"

uninstall: ## remove what install installed
	@scripts/install uninstall "$(BIN)" "$(DESTDIR)$(PREFIX)"

clean: ## remove what was built and cached
	rm -rf $(BIN) $(CACHE)
