# Waymark. `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
GOTOOL := GOWORK=off go -C tools tool
TOOLBIN := $(CURDIR)/bin/tools

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

gen: $(TOOLBIN)/protoc-gen-go tools/node_modules/.bin/buf ## regenerate the Go code of the contracts
	@GOWORK=off go -C tools run ./protodeps ../proto/.deps
	@cd proto && PATH="$(TOOLBIN):$$PATH" ../tools/node_modules/.bin/buf generate

$(TOOLBIN)/protoc-gen-go: tools/go.mod
	@mkdir -p $(TOOLBIN)
	@GOWORK=off GOBIN=$(TOOLBIN) go -C tools install google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@touch $@

tools/node_modules/.bin/buf: tools/package-lock.json
	@npm --prefix tools install --no-audit --no-fund --silent
	@touch $@

.PHONY: help gen
