# Provium tools. `make demo` and `make check` do everything on a fresh Debian 12 machine.
BUILD    ?= build
CXX      ?= g++
OPT      ?= -O1
SANITIZE ?=
PREFIX   ?= /usr/local
DESTDIR  ?=
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
endif

# Debian packages by what they are for; `make deps` installs what is missing.
BUILD_PACKAGES := g++ make libcli11-dev nlohmann-json3-dev libexpected-dev libfmt-dev \
                  liburing-dev libnbd-dev libssl-dev libxxhash-dev liblz4-dev zlib1g-dev \
                  libtomlplusplus-dev
RUN_PACKAGES   := qemu-system-x86 qemu-utils qemu-block-extra libnbd0 libssl3 ca-certificates
TEST_PACKAGES  := catch2 librapidcheck-dev bats bats-assert bats-support jq parallel procps \
                  libnbd-bin nbdkit fio e2fsprogs file git python3 mandoc clang-format shellcheck \
                  zsh fish cpio cryptsetup-bin syslinux syslinux-common mtools dosfstools chromium

WARN     := -Wall -Wextra -Werror
CXXFLAGS  = -std=c++20 $(OPT) -g1 $(WARN) $(SANITIZE) -Ilib -pthread -ffunction-sections \
            -D_GNU_SOURCE
LDFLAGS  := $(SANITIZE) -pthread -Wl,--gc-sections -Wl,--as-needed
LDLIBS   := -lfmt -luring -llz4 -lz -ldl

COMMANDS := $(notdir $(wildcard cmd/pv-*))
RUNNER   := lib/guest/runner/pv-runner.cpp
LIB_SRC  := $(filter-out $(RUNNER),$(shell find lib -name '*.cpp'))
VHOST_SRC := $(addprefix tests/vhost/,$(addsuffix .cpp,blk channel driver driver_shared lane \
               memory qsd queue))
TEST_SRC := $(filter-out tests/vhost/load.cpp,$(wildcard tests/unit/*.cpp tests/conform/*.cpp \
              tests/vhost/*.cpp))
PCH      := $(BUILD)/pch.hpp.gch
HOT_PCH  := $(BUILD)/hot/pch.hpp.gch
TEST_PCH := $(BUILD)/test_pch.hpp.gch

obj = $(patsubst %.cpp,$(BUILD)/obj/%.o,$(1))
LIB_OBJ  := $(call obj,$(LIB_SRC))
BINS     := $(addprefix $(BUILD)/bin/,$(COMMANDS))

all: $(BINS)

# The data plane is optimised; the rest is compiled for a short build. A precompiled header serves
# one set of flags only.
HOT := $(BUILD)/hot/%.gch $(BUILD)/obj/lib/blk/%.o $(BUILD)/obj/lib/front/%.o \
       $(BUILD)/obj/lib/verify/%.o
$(HOT): OPT := -O2

$(PCH) $(HOT_PCH): lib/base/pch.hpp
$(TEST_PCH): tests/pch.hpp lib/base/pch.hpp
$(PCH) $(HOT_PCH) $(TEST_PCH):
	@mkdir -p $(@D)
	@echo "PCH   $@"
	@$(CXX) $(CXXFLAGS) -x c++-header $< -o $@

FIRST = $(BUILD)/pch.hpp
$(BUILD)/obj/tests/%.o: FIRST = $(BUILD)/test_pch.hpp
$(BUILD)/obj/tests/%.o: tests/%.cpp | $(TEST_PCH)
	@mkdir -p $(@D)
	@echo "CXX   $<"
	@$(CXX) $(CXXFLAGS) -include $(FIRST) -MMD -MP -c $< -o $@

$(BUILD)/obj/lib/blk/%.o $(BUILD)/obj/lib/front/%.o $(BUILD)/obj/lib/verify/%.o: \
  FIRST = $(BUILD)/hot/pch.hpp
$(BUILD)/obj/%.o: %.cpp | $(PCH) $(HOT_PCH)
	@mkdir -p $(@D)
	@echo "CXX   $<"
	@$(CXX) $(CXXFLAGS) -include $(FIRST) -MMD -MP -c $< -o $@

# The vhost-user front end of the tests is a load generator too: optimised, and without Catch2.
VHOST_OBJ := $(call obj,$(VHOST_SRC) tests/vhost/load.cpp)
$(VHOST_OBJ): private OPT := -O2
$(VHOST_OBJ): FIRST = $(BUILD)/hot/pch.hpp
$(VHOST_OBJ): | $(HOT_PCH)

# A program of the guest, which lib/guest has in itself. Nothing of the host's is linked to it.
$(BUILD)/pv-runner: $(RUNNER) $(wildcard lib/guest/runner/*.hpp)
	@mkdir -p $(@D)
	@echo "CXX   $<"
	@$(CXX) -std=c++20 -O2 $(WARN) -Ilib -ffreestanding -mgeneral-regs-only -fno-exceptions -fno-rtti \
	  -fno-stack-protector -fno-asynchronous-unwind-tables -fno-pie -no-pie -static -nostdlib -s \
	  -Wl,--build-id=none -Wl,-z,noseparate-code -o $@ $<

$(BUILD)/obj/lib/guest/scripts.o: CXXFLAGS += -DPV_RUNNER='"$(BUILD)/pv-runner"'
$(BUILD)/obj/lib/guest/scripts.o: $(BUILD)/pv-runner

# Programs that tests run in a guest.
PROGRAMS := $(patsubst tests/programs/%.cpp,$(BUILD)/programs/%,$(wildcard tests/programs/*.cpp))
$(BUILD)/programs/%: tests/programs/%.cpp
	@mkdir -p $(@D)
	@echo "CXX   $<"
	@$(CXX) -std=c++20 -O2 $(WARN) -D_GNU_SOURCE -static -s -o $@ $<

$(BUILD)/libpv.a: $(LIB_OBJ)
	@rm -f $@
	@echo "AR    $@"
	@ar rcs $@ $^

define command_rule
$(BUILD)/bin/$(1): $(call obj,$(wildcard cmd/$(1)/*.cpp)) $(BUILD)/libpv.a
	@mkdir -p $$(@D)
	@echo "LD    $$@"
	@$$(CXX) $$(LDFLAGS) -o $$@ $$^ $$(LDLIBS)
endef
$(foreach command,$(COMMANDS),$(eval $(call command_rule,$(command))))

$(BUILD)/bin/pv-test: $(call obj,$(TEST_SRC)) $(BUILD)/libpv.a
	@mkdir -p $(@D)
	@echo "LD    $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ -lCatch2WithMain -lrapidcheck $(LDLIBS)

$(BUILD)/bin/pv-vhost-load: $(VHOST_OBJ) $(BUILD)/libpv.a
	@mkdir -p $(@D)
	@echo "LD    $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# --- what a person runs -----------------------------------------------------------------------

deps:
	@tests/check/deps $(BUILD_PACKAGES) $(RUN_PACKAGES) $(TEST_PACKAGES)

demo: deps
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) tests/demo

# Everything; ends with "N passed, N failed, N skipped".
check: deps
	@$(MAKE) --no-print-directory all $(BUILD)/bin/pv-test $(PROGRAMS)
	@BUILD=$(BUILD) tests/check/run unit tidy drift bats

unit: $(BUILD)/bin/pv-test
	@BUILD=$(BUILD) tests/check/run unit

bats: all $(PROGRAMS)
	@BUILD=$(BUILD) tests/check/run bats

tidy: all
	@BUILD=$(BUILD) tests/check/run tidy drift

bench: deps
	@$(MAKE) --no-print-directory all $(BUILD)/bin/pv-vhost-load
	@BUILD=$(BUILD) tests/bench/run

# Kills disk servers at random moments, ROUNDS times, and looks at what is left; then as many power
# cuts of three disks at once; then VM_CUTS of VMs, about two seconds each; then RESTORES of a VM;
# then KILLS of vhost-user servers under a guest.
ROUNDS  ?= 200
VM_CUTS ?= 100
RESTORES ?= 1000
KILLS    ?= 1000
crash: all $(PROGRAMS)
	@PATH="$(abspath $(BUILD))/bin:$$PATH" tests/crash/run --rounds $(ROUNDS)
	@PATH="$(abspath $(BUILD))/bin:$$PATH" tests/crash/chain --cuts $(ROUNDS)
	@PATH="$(abspath $(BUILD))/bin:$$PATH" tests/crash/fsync --cuts $(VM_CUTS)
	@PATH="$(abspath $(BUILD))/bin:$$PATH" tests/crash/restores --count $(RESTORES)
	@PATH="$(abspath $(BUILD))/bin:$$PATH" tests/crash/load
	@PATH="$(abspath $(BUILD))/bin:$$PATH" BUILD=$(BUILD) tests/crash/vhost_kill --count $(KILLS)

# The same unit and conformance tests under the sanitizers, each in a build folder of its own.
# (With -fsanitize=address g++ 12 takes std::regex for uninitialized, GCC bug 105562.)
asan:
	@$(MAKE) --no-print-directory BUILD=build/asan OPT=-O1 \
	  SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=undefined \
	    -Wno-maybe-uninitialized' unit
# It does not know fences (the virtqueues have some), and misleads gcc's warnings: those of the
# usual build count.
tsan:
	@$(MAKE) --no-print-directory BUILD=build/tsan OPT=-O1 \
	  SANITIZE='-fsanitize=thread -w' unit

# libFuzzer over every parser of foreign bytes, FUZZ_SECONDS each (needs clang). It begins with the
# inputs in the tree, and keeps those that it finds in the build folder.
FUZZ_SECONDS ?= 30
FUZZERS      := $(notdir $(basename $(wildcard tests/fuzz/*.cpp)))
FUZZ_SRC     := $(shell find lib/base lib/blk lib/front lib/verify/log -name '*.cpp') \
                lib/lan/frames.cpp lib/lan/switch.cpp lib/lan/wire.cpp \
                lib/cli/document.cpp lib/cli/render.cpp lib/guest/cpio.cpp \
                $(addprefix lib/verify/,qcow2_image.cpp raw_image.cpp) \
                lib/vm/device_state.cpp $(addprefix lib/vm/profile/,config.cpp guest_file.cpp) \
                $(addprefix lib/vm/profile/,profile_toml.cpp toml_tree.cpp)
FUZZ_FLAGS   := -std=c++20 -O1 -g1 -Ilib -pthread -D_GNU_SOURCE -include lib/base/pch.hpp \
                -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined

$(BUILD)/fuzz/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "FUZZ  $<"
	@clang++ $(FUZZ_FLAGS) -MMD -MP -c $< -o $@

$(BUILD)/fuzz/bin/%: $(BUILD)/fuzz/tests/fuzz/%.o $(FUZZ_SRC:%.cpp=$(BUILD)/fuzz/%.o)
	@mkdir -p $(@D)
	@clang++ -fsanitize=fuzzer,address,undefined -pthread -o $@ $^ -lfmt -luring -ldl

fuzz: $(addprefix $(BUILD)/fuzz/bin/,$(FUZZERS))
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

-include $(shell find $(BUILD)/obj $(BUILD)/fuzz -name '*.d' 2>/dev/null)
.PHONY: all deps demo check unit bats tidy bench crash asan tsan fuzz install clean
.SECONDARY:
.DELETE_ON_ERROR:
