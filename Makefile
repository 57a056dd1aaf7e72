# SPDX-License-Identifier: LGPL-2.1-or-later
# A front: meson builds, scripts do the rest.

BUILD ?= build
UMBRA_BIN = $(CURDIR)/$(BUILD)/umbra

# The programs.  What tests and measures them comes with 'make tests'.
all: $(BUILD)/build.ninja
	ninja -C $(BUILD) programs

tests: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	tools/install-deps build
	meson setup $(BUILD)

# What it does, shown on a wrecked file tree.  Root, 8 GB, three minutes.
demo:
	tools/install-deps demo
	$(MAKE) all
	UMBRA_BIN=$(UMBRA_BIN) tests/demo.sh

# Everything: compilers, sanitizers, all tests, style.  'make check STEPS="asan style"' runs some.
check:
	tools/install-deps check
	tools/check $(STEPS)

# The randomised tests for hours, with new seeds.
soak: tests
	tools/soak

fuzz:
	tools/install-deps check
	tools/run-fuzz

# Beside restic and borg.  Root, half an hour.
bench-backup:
	tools/install-deps bench
	$(MAKE) all
	UMBRA_BIN=$(UMBRA_BIN) bench/backup.sh $(BENCH_ARGS)

# How soon a lost volume is back at work, beside restic and borg.  Root, half an hour.
bench-rto:
	tools/install-deps bench
	$(MAKE) all
	UMBRA_BIN=$(UMBRA_BIN) bench/rto.sh $(BENCH_ARGS)

# The log service beside SQLite and bare fdatasync.  Root, five minutes.
bench-log:
	tools/install-deps bench
	$(MAKE) all
	meson setup --reconfigure $(BUILD) >/dev/null
	ninja -C $(BUILD) bench/log
	BUILD=$(BUILD) bench/log.sh $(BENCH_ARGS)

# Cow volumes beside a bare loop device, qemu-storage-daemon and nbdkit.  Root, half an hour.
bench-cow:
	tools/install-deps bench
	$(MAKE) all
	UMBRA_BIN=$(UMBRA_BIN) bench/cow.sh $(BENCH_ARGS)

install: all
	meson install -C $(BUILD) --no-rebuild

clean:
	rm -rf $(BUILD) build-check build-fuzz

.PHONY: all bench-backup bench-cow bench-log bench-rto check clean demo fuzz install soak tests
