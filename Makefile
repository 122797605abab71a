# make help lists what there is. Everything here runs on a plain Linux with Go, Node 20 and a C compiler.

VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null)
FUZZTIME      ?= 30s
BENCHFLAGS    ?=
SEQUENCES     ?= 50000
SOAK          ?= 10m
STATICCHECK   := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.8.0
GOFILES        = $(shell find cmd httpapi signaling static -name '*.go' -not -path '*/node_modules/*')
JS            := static/test
NODE_STAMP    := $(JS)/node_modules/.package-lock.json
FIND_CHROMIUM = for c in "$$CHROMIUM" chromium chromium-browser google-chrome; do command -v "$$c" && break; done
FIND_FIREFOX  = for c in "$$FIREFOX" firefox-esr firefox; do command -v "$$c" && break; done
TABLE         ?= bin/browser-tests.md

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run build test vet test-go test-js test-browser lint fmt fuzz bench model mutants storm soak docker clean screenshots need-cc need-node need-chromium need-firefox need-proxies dashboard

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## start the server with its page on http://localhost:8080/
	./bin/duet

build: ## build the static binary bin/duet
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/duet ./cmd/duet

bin/nats-server: go.mod # of the release that go.mod names, for the browser tests of several nodes
	CGO_ENABLED=0 go build -trimpath -o $@ github.com/nats-io/nats-server/v2

test: vet test-go test-js test-browser ## run every test; installs what it needs

vet: ## go vet
	go vet ./...

test-go: need-cc need-proxies $(NODE_STAMP) ## Go tests under the race detector, fuzz seeds included
	CGO_ENABLED=1 go test -race -timeout 5m $$(go list ./... | grep -v /natsbus$$)
	CGO_ENABLED=1 go test -race -timeout 5m ./signaling/natsbus # alone: its leases are short, and its servers three

test-js: $(NODE_STAMP) ## types and unit tests of the page's modules
	npm --prefix $(JS) run --silent check
	npm --prefix $(JS) run --silent unit

test-browser: $(NODE_STAMP) need-chromium need-firefox build bin/nats-server ## calls between real browsers on the real server; writes TABLE (bin/browser-tests.md)
	CHROMIUM="$$($(FIND_CHROMIUM))" FIREFOX="$$($(FIND_FIREFOX))" DUET_BIN=$(CURDIR)/bin/duet NATS_BIN=$(CURDIR)/bin/nats-server TABLE=$(abspath $(TABLE)) \
		npm --prefix $(JS) run --silent browser

lint: vet $(NODE_STAMP) ## gofmt, vet, staticcheck, govulncheck, tsc
	@unformatted=$$(gofmt -l $(GOFILES)); test -z "$$unformatted" || { echo "not gofmt'd (make fmt):" $$unformatted; exit 1; }
	go run $(STATICCHECK) ./...
	@echo 'go run $(GOVULNCHECK) ./...'; out=$$(go run $(GOVULNCHECK) ./... 2>&1) && echo "$$out" || case $$out in \
		*'Vulnerability #'*) echo "$$out"; exit 1;; \
		*vuln.go.dev*) echo "govulncheck SKIPPED: its database https://vuln.go.dev cannot be reached from here";; \
		*) echo "$$out"; exit 1;; esac
	npm --prefix $(JS) run --silent check

fmt: ## gofmt everything
	gofmt -w $(GOFILES)

fuzz: ## run each fuzz target for FUZZTIME (30s)
	@set -e; for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "== $$pkg $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg; \
		done; \
	done

bench: ## Go benchmarks, then the server beside its baselines (BENCHFLAGS go to cmd/duet-bench)
	go test -run '^$$' -bench . -benchmem ./...
	go run ./cmd/duet-bench $(BENCHFLAGS)

model: $(NODE_STAMP) ## the server's rooms and the page's client beside their models, for SEQUENCES (50000) random lives each
	DUET_MODEL_SEQUENCES=$(SEQUENCES) DUET_MODEL_DEPTH=6 go test -v -run Model -timeout 60m ./signaling
	cd $(JS) && MODEL_SEQUENCES=$(SEQUENCES) MODEL_STEPS=150 node --test unit/model.test.mjs

mutants: ## take each rule out of the server in turn: a test must notice
	go run ./cmd/duet-mutants

storm: ## 1,000 rooms kicked 20,000 times and more, 5,000 clients through a restart of the server, a cluster through its faults
	DUET_STORM=1 go test -v ./cmd/duet-storm
	go run ./cmd/duet-storm kicks
	go run ./cmd/duet-storm restart
	go run ./cmd/duet-storm restart -signal TERM
	mkdir -p bin
	go run ./cmd/duet-storm cluster -o bin/cluster-faults.md

soak: ## rooms come and go, faults included, for SOAK (10m): what grows?
	go run ./cmd/duet-storm soak -for $(SOAK)

screenshots: $(NODE_STAMP) need-chromium build ## pictures of every state of the page into bin/screenshots, the README's into docs
	export CHROMIUM="$$($(FIND_CHROMIUM))" DUET_BIN=$(CURDIR)/bin/duet; \
		npm --prefix $(JS) run --silent screenshots && cd $(JS) && sh browser/netns.sh node relay-shot.mjs

dashboard: need-proxies ## draw docs/dashboard.svg: four minutes of made-up calls, seen by Prometheus
	DUET_DASHBOARD=$(CURDIR)/docs/dashboard.svg go test -count=1 -run TestDashboardPicture -timeout 10m ./cmd/duet

docker: ## build the container image duet
	docker build --build-arg VERSION=$(VERSION) -t duet .

clean: ## remove what was built and installed here
	rm -rf bin $(JS)/node_modules cmd/duet-bench/socketio/node_modules

need-cc:
	@command -v $$(go env CC) >/dev/null || { echo "The race detector needs a C compiler ($$(go env CC)). On Debian: apt-get install gcc libc6-dev"; exit 1; }

need-node:
	@command -v npm >/dev/null && node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' || { echo "The page's tests need Node 20 or later with npm. On Debian: apt-get install nodejs npm"; exit 1; }

$(NODE_STAMP): $(JS)/package.json $(JS)/package-lock.json | need-node
	npm --prefix $(JS) ci --no-audit --no-fund
	@touch $@

# A browser that is there is taken, CHROMIUM=/path and FIREFOX=/path first; else Debian's is installed, as
# root or through sudo. Without Chromium there are no browser tests; without Firefox its rows are skipped.
define INSTALL
	sudo=; test "$$(id -u)" = 0 || sudo='sudo -n'; \
	command -v apt-get >/dev/null && $$sudo true 2>/dev/null && \
	$$sudo apt-get update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends
endef

need-chromium:
	@$(FIND_CHROMIUM) >/dev/null || { $(INSTALL) chromium; } || { \
		echo "The browser tests need Chromium: install it (on Debian: apt-get install chromium) or say where it is: CHROMIUM=/path"; exit 1; }

need-firefox:
	@$(FIND_FIREFOX) >/dev/null || { $(INSTALL) firefox-esr; } || \
		echo "Firefox is not here: its rows are skipped. Install it (on Debian: apt-get install firefox-esr) or say where it is: FIREFOX=/path"

# The proxies of docs/proxies, and Prometheus for the dashboard. Without one of them its tests are skipped.
# Their packages start them as services where systemd runs: there it is left to you.
need-proxies:
	@PATH=$$PATH:/usr/sbin; missing=; \
	for p in nginx:nginx-light caddy:caddy haproxy:haproxy prometheus:prometheus; do \
		command -v $${p%:*} >/dev/null || missing="$$missing $${p#*:}"; done; \
	test -z "$$missing" || { test ! -d /run/systemd/system && { $(INSTALL) $$missing; }; } || \
		echo "Not here, so their tests are skipped:$$missing. Install them (on Debian: apt-get install$$missing)"
