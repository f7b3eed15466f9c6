.DEFAULT_GOAL := help
.PHONY: help setup tools tools-path build image demo cluster cluster-down generate test test-cluster oracle bench lint fmt

help:       ## lists these verbs
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1\t/p' Makefile | expand -t 14
setup:      ## installs what the tests need from the system (Debian, root), or says what to install
	@cargo run -p xtask -- setup
tools:      ## builds what the tests run, from the control plane to helm, into the user's cache, once
	@cargo run -p xtask -- tools
tools-path: ## prints the folder of the control plane; ARGS=helm: the path of a program
	@cargo run -q -p xtask -- tools-path $(ARGS)
build:      ## builds the program for production
	cargo build --release --locked -p kubevision-audit
image:      ## builds the container image into target/image, without a container engine
	@cargo run -p xtask -- image
demo:       ## a real API server, a dozen writes, and what was recorded; ARGS=--once ends by itself
	@cargo run -p xtask -- demo $(ARGS)
cluster:    ## a real Kubernetes of one node on this machine (Linux, root); ARGS=--image loads what `make image` made
	@cargo run -p xtask -- cluster up $(ARGS)
cluster-down: ## ends it; ARGS=--wipe removes its data, too
	@cargo run -p xtask -- cluster down $(ARGS)
generate: tools ## writes what is made from other files: the chart's README, deploy/rbac.yaml, deploy/kustomize
	@cargo run -q -p xtask -- generate
test: setup tools ## runs every test, against the real servers
	cargo test --workspace --locked
test-cluster: ## the chart and the image on a real node (Linux, root)
	@cargo run -p xtask -- test-cluster $(ARGS)
oracle: setup tools ## what is recorded against the API server's own log, by thousands of random requests; ORACLE_SEEDS=1,2 ORACLE_REQUESTS=3000
	ORACLE_SEEDS=$${ORACLE_SEEDS:-1,2,3} ORACLE_REQUESTS=$${ORACLE_REQUESTS:-3000} \
		cargo test --locked -p kubevision-audit --test it oracle:: -- --include-ignored --nocapture --test-threads=1
bench:      ## measures, each number beside its yardstick
	cargo bench --locked -p kubevision-audit --bench ratios $(ARGS)
lint:       ## formatting, clippy, and the rules of the house
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo run -p xtask -- tidy
fmt:        ## formats the code
	cargo fmt --all
