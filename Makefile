# Provium tools. `make demo` and `make check` do everything on a fresh Debian 12 or 13 machine.
BUILD    ?= build
CXX      ?= g++
OPT      ?= -O1
SANITIZE ?=
PREFIX   ?= /usr/local
DESTDIR  ?=
# 1: a folder of sources is one unit of compilation. 0: each source is one (see "the build").
UNITY    ?= 1
CCACHE   ?= $(shell command -v ccache)

# make ends a name at a blank, so the build folder's name can have none; the tree's may.
ifneq ($(words $(BUILD)),1)
$(error BUILD='$(BUILD)': the name of the build folder must have no blank in it)
endif
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif

# Debian packages by what they are for; `make deps` installs what is missing.
BUILD_PACKAGES := g++ make libcli11-dev nlohmann-json3-dev libexpected-dev libfmt-dev \
                  liburing-dev libnbd-dev libssl-dev libxxhash-dev liblz4-dev zlib1g-dev \
                  libtomlplusplus-dev
RUN_PACKAGES   := qemu-system-x86 qemu-utils qemu-block-extra ca-certificates xz-utils zstd
TEST_PACKAGES  := catch2 librapidcheck-dev bats bats-assert bats-support jq gojq procps \
                  libnbd-bin nbdkit fio e2fsprogs file git python3 mandoc clang-format shellcheck \
                  zsh fish cpio cryptsetup-bin syslinux syslinux-common mtools dosfstools chromium
SOAK_PACKAGES  := clang debootstrap

WARN     := -Wall -Wextra -Werror
CXXFLAGS  = -std=c++20 $(OPT) -g1 $(WARN) $(SANITIZE) -Ilib -iquote . -pthread \
            -ffunction-sections -D_GNU_SOURCE
LDFLAGS  := $(SANITIZE) -pthread -Wl,--gc-sections -Wl,--as-needed
LDLIBS   := -lfmt -luring -llz4 -lz -ldl

# Version 3 where it is there, as in tests/catch.hpp.
CATCH2    = $(if $(wildcard /usr/include/catch2/catch_test_macros.hpp),-lCatch2Main -lCatch2,\
              -lCatch2WithMain)

COMMANDS := $(notdir $(wildcard cmd/pv-*))
RUNNER   := lib/guest/runner/pv-runner.cpp
BINS     := $(addprefix $(BUILD)/bin/,$(COMMANDS))

all: $(BINS) $(BUILD)/share/provium/presets

# Where a program that is installed has them; so it has them wherever the build folder is.
$(BUILD)/share/provium/presets:
	@mkdir -p $(@D)
	@ln -sfn "$$PWD/lib/presets" $@

# --- the build --------------------------------------------------------------------------------
# A unit is a folder, or some small ones: a generated source includes their sources, so that the
# headers are read and the templates compiled once for all of them (UNITY=1). Names in anonymous
# namespaces must therefore differ within a unit. With UNITY=0 a unit is one source, which must then
# include what it uses.
with.lib/blk        := lib/blk/backend
with.lib/blk/cow    := lib/blk/mirror lib/blk/record
with.lib/blk/fault  := lib/blk/fault/kind
with.lib/front/nbd  := lib/front/vhost
with.lib/snap       := lib/lan lib/target
with.lib/verify     := lib/verify/log lib/verify/report
with.lib/vm         := lib/vm/lan lib/vm/scope
with.lib/vm/access  := lib/vm/profile
joined   := $(foreach one,$(filter with.%,$(.VARIABLES)),$($(one)))
folders  = $(1) $(with.$(1))
folder   = $(filter-out $(RUNNER),$(wildcard $(addsuffix /*.cpp,$(folders))))
LIB      := $(filter-out lib/guest/runner $(joined),\
              $(shell find lib -name '*.cpp' -printf '%h\n' | sort -u))
CMD      := $(addprefix cmd/,$(COMMANDS))
# The folders of the tests are large: their units are the sources that begin with these letters.
LETTERS  := a-b c-f g-l m-n o-s t-z
TESTS    := $(addprefix tests/unit/,$(LETTERS)) $(addprefix tests/conform/,a-e f-z) \
            tests/vhost tests/vhost/driver
LOAD     := tests/vhost/driver tests/vhost/load

UNITS    := $(sort $(LIB) $(CMD) $(TESTS) $(LOAD))

some     = $(filter tests/unit/% tests/conform/%,$(1))
letters  = $(wildcard $(dir $(1))[$(notdir $(1))]*.cpp)
sources  = $(if $(some),$(letters),$(folder))
ifeq ($(UNITY),1)
MODE     := unity
object   = $(patsubst %,$(BUILD)/unity/%.o,$(1))
else
MODE     := single
object   = $(patsubst %.cpp,$(BUILD)/single/%.o,$(foreach unit,$(1),$(call sources,$(unit))))
endif

define unit_rule
$(BUILD)/unity/$(1).cpp: $(if $(some),$(dir $(1)),$(folders)) Makefile
	@mkdir -p $$(@D)
	@printf '#include "%s"\n' $(sources) > $$@.new
	@cmp -s $$@.new $$@ && rm $$@.new || mv $$@.new $$@
endef
$(foreach unit,$(UNITS),$(eval $(call unit_rule,$(unit))))

# What is compiled with other flags or another compiler is compiled anew.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(CXX) $(CXXFLAGS)' | cmp -s - $@ || printf '%s\n' '$(CXX) $(CXXFLAGS)' > $@
FORCE:

# `make demo` and `make check` count beforehand how many STEPS there are.
said     = $(eval SAID += x)$(if $(STEPS),[$(words $(SAID))/$(STEPS)] )
define compile
@mkdir -p $(@D)
@echo "CXX   $(said)$(basename $(@:$(BUILD)/%=%))"
@$(CCACHE) $(CXX) $(CXXFLAGS) -MMD -MP -c $< -o $@
endef
$(BUILD)/unity/%.o: $(BUILD)/unity/%.cpp $(BUILD)/flags
	$(compile)
$(BUILD)/single/%.o: %.cpp $(BUILD)/flags
	$(compile)

# The data plane is optimised; the rest is compiled for a short build.
HOT_OPT  ?= -O2
HOT      := lib/blk lib/front lib/verify tests/vhost/driver tests/vhost/load
$(foreach mode,unity single,$(HOT:%=$(BUILD)/$(mode)/%.o) $(HOT:%=$(BUILD)/$(mode)/%/%.o)): \
  private OPT := $(HOT_OPT)

# A program of the guest, which lib/guest has in itself. Nothing of the host's is linked to it.
$(BUILD)/pv-runner: $(RUNNER) $(wildcard lib/guest/runner/*.hpp)
	@mkdir -p $(@D)
	@echo "CXX   $(said)$<"
	@$(CXX) -std=c++20 -O2 $(WARN) -Ilib -ffreestanding -mgeneral-regs-only -fno-exceptions -fno-rtti \
	  -fno-stack-protector -fno-asynchronous-unwind-tables -fno-pie -no-pie -static -nostdlib -s \
	  -Wl,--build-id=none -Wl,-z,noseparate-code -o $@ $<

$(BUILD)/unity/lib/guest.o $(BUILD)/single/lib/guest/scripts.o: $(BUILD)/pv-runner
$(BUILD)/unity/lib/guest.o $(BUILD)/single/lib/guest/scripts.o: \
  private CXXFLAGS += -DPV_RUNNER='"$(BUILD)/pv-runner"'

# Programs that tests run in a guest.
PROGRAMS := $(patsubst tests/programs/%.cpp,$(BUILD)/programs/%,$(wildcard tests/programs/*.cpp))
$(BUILD)/programs/%: tests/programs/%.cpp
	@mkdir -p $(@D)
	@echo "CXX   $(said)$<"
	@$(CXX) -std=c++20 -O2 $(WARN) -D_GNU_SOURCE -static -s -o $@ $<

LIBPV    := $(BUILD)/$(MODE)/libpv.a
$(LIBPV): $(call object,$(LIB))
	@rm -f $@
	@echo "AR    $@"
	@ar rcs $@ $^

define link
@mkdir -p $(@D)
@echo "LD    $@"
@$(CXX) $(LDFLAGS) -o $@ $^ $(LIBS) $(LDLIBS)
endef
$(foreach one,$(COMMANDS),$(eval $(BUILD)/bin/$(one): $(call object,cmd/$(one)) $(LIBPV)))
$(BUILD)/bin/pv-test: $(call object,$(TESTS)) $(LIBPV)
$(BUILD)/bin/pv-test: LIBS = $(CATCH2) -lrapidcheck
$(BUILD)/bin/pv-vhost-load: $(call object,$(LOAD)) $(LIBPV)
$(BINS) $(BUILD)/bin/pv-test $(BUILD)/bin/pv-vhost-load:
	$(link)

# --- what a person runs -----------------------------------------------------------------------

deps:
	@tests/check/deps $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES)

# Builds some targets, and counts beforehand what there is to compile.
again    = $(MAKE) --no-print-directory
counted  = $(again) $(1) STEPS="$$($(again) -n $(1) | grep -c '"CXX ')"

demo: deps
	+@$(call counted,all)
	@BUILD=$(BUILD) tests/demo

# Everything; ends with "N passed, N failed, N skipped". TESTS=PATTERN runs what matches, SEED=n
# what that seed gave, REPORT=dir writes JUnit XML and TAP; tests/check/run says more.
check: deps
	+@$(call counted,all $(BUILD)/bin/pv-test $(PROGRAMS))
	@BUILD='$(BUILD)' exec tests/check/run

unit: $(BUILD)/bin/pv-test
	@BUILD='$(BUILD)' exec tests/check/run unit

bats: all $(PROGRAMS)
	@BUILD='$(BUILD)' exec tests/check/run bats

tidy: all
	@BUILD='$(BUILD)' exec tests/check/run tidy drift

# Each source and each header compiles alone: it includes what it uses.
HEADERS   = $(filter-out lib/guest/runner/%,$(shell find lib cmd tests -name '*.hpp'))
alone:
	@$(again) UNITY=0 all $(BUILD)/bin/pv-test $(HEADERS:%=$(BUILD)/single/%.alone)
$(BUILD)/single/%.alone: % $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "CXX   $<"
	@echo '#include "$<"' | $(CXX) $(CXXFLAGS) -fsyntax-only -x c++ - && touch $@

# What is long or random, step by step; tests/check/soak.py has the list.
soak: deps
	@tests/check/deps $(SOAK_PACKAGES)
	@$(MAKE) --no-print-directory all $(BUILD)/bin/pv-test $(PROGRAMS)
	@BUILD='$(BUILD)' exec tests/check/run soak

# demo and check as the first commands on a fresh Debian of another release (tests/check/on).
check-on:
	@tests/check/on '$(SUITE)'

bench: deps
	@$(MAKE) --no-print-directory all $(BUILD)/bin/pv-vhost-load
	@BUILD=$(BUILD) tests/bench/run

# The steps of `make soak` that kill disk servers and VMs, restore snapshots and cut the power. How
# often: ROUNDS, VM_CUTS, RESTORES, KILLS.
crash: all $(PROGRAMS)
	@BUILD='$(BUILD)' TESTS='soak: crash' exec tests/check/run soak

# The same unit and conformance tests under the sanitizers, each in a build folder of its own.
# (With -fsanitize=address g++ 12 takes std::regex for uninitialized, GCC bug 105562.)
asan:
	@$(MAKE) --no-print-directory BUILD=build/asan HOT_OPT=-O1 \
	  SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=undefined \
	    -Wno-maybe-uninitialized' unit
# It does not know fences (the virtqueues have some), and misleads gcc's warnings: those of the
# usual build count.
tsan:
	@$(MAKE) --no-print-directory BUILD=build/tsan HOT_OPT=-O1 \
	  SANITIZE='-fsanitize=thread -w' unit

# libFuzzer over every parser of foreign bytes, FUZZ_SECONDS each (needs clang). It begins with the
# inputs in the tree, and keeps those that it finds in the build folder.
FUZZ_SECONDS ?= 30
FUZZERS      := $(notdir $(basename $(wildcard tests/fuzz/*.cpp)))
FUZZ_FLAGS   := -fsanitize=address,undefined -fno-sanitize-recover=undefined
ifneq ($(FUZZ),)
$(BUILD)/bin/%: tests/fuzz/%.cpp $(LIBPV)
	@mkdir -p $(@D)
	@echo "FUZZ  $<"
	@$(CXX) $(CXXFLAGS) -fsanitize=fuzzer -MMD -MF $(BUILD)/unity/$*.d -o $@ $< $(LIBPV) $(LDLIBS)
endif

fuzz:
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/fuzz CXX=clang++ HOT_OPT=-O1 FUZZ=1 \
	  SANITIZE='$(FUZZ_FLAGS) -fsanitize=fuzzer-no-link' $(FUZZERS:%=$(BUILD)/fuzz/bin/%)
	@set -e; for f in $(FUZZERS); do echo "== $$f"; mkdir -p $(BUILD)/fuzz/corpus/$$f; \
	  tests/fuzz/seeds.sh unpack $$f $(BUILD)/fuzz/corpus/$$f; \
	  $(BUILD)/fuzz/bin/$$f -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 \
	    -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/corpus/$$f; done

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1 \
	  $(DESTDIR)$(PREFIX)/share/man/man5 \
	  $(DESTDIR)$(PREFIX)/share/man/man7 \
	  $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
	  $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
	  $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -d $(DESTDIR)$(PREFIX)/share/provium/presets
	install -m 644 lib/presets/*.json $(DESTDIR)$(PREFIX)/share/provium/presets
	install -m 644 lib/share/provium.bash lib/share/provium.mk $(DESTDIR)$(PREFIX)/share/provium
	ln -sf provium.bash $(DESTDIR)$(PREFIX)/share/provium/load.bash
	install -s $(BINS) $(DESTDIR)$(PREFIX)/bin
	install -m 755 lib/share/provium $(DESTDIR)$(PREFIX)/bin
	install -m 644 man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 man/*.5 $(DESTDIR)$(PREFIX)/share/man/man5
	install -m 644 man/*.7 $(DESTDIR)$(PREFIX)/share/man/man7
	for c in $(COMMANDS); do \
	  install -m 644 completions/provium.bash \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$c; \
	  install -m 644 completions/provium.fish \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$c.fish; done
	install -m 644 completions/_provium $(DESTDIR)$(PREFIX)/share/zsh/site-functions

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/unity $(BUILD)/single -name '*.d' 2>/dev/null)
.PHONY: all deps demo check check-on unit bats tidy alone soak bench crash asan tsan fuzz install \
        clean
.SECONDARY:
.DELETE_ON_ERROR:
