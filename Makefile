# Provium tools. `make demo` and `make check` do everything on a fresh Debian 12 machine.
BUILD    ?= build
CXX      ?= g++
OPT      ?= -O2
SANITIZE ?=
WARN     := -Wall -Wextra -Werror
CXXFLAGS := -std=c++20 $(OPT) -g1 $(WARN) $(SANITIZE) -Ilib -pthread -ffunction-sections -D_GNU_SOURCE
LDFLAGS  := $(SANITIZE) -pthread -Wl,--gc-sections -Wl,--as-needed
LDLIBS   := -lfmt -luring -ldl

COMMANDS := $(notdir $(wildcard cmd/pv-*))
LIB_SRC  := $(shell find lib -name '*.cpp')
TEST_SRC := $(wildcard tests/unit/*.cpp tests/conform/*.cpp)
PCH      := $(BUILD)/pch.hpp.gch

obj = $(patsubst %.cpp,$(BUILD)/obj/%.o,$(1))
LIB_OBJ  := $(call obj,$(LIB_SRC))
BINS     := $(addprefix $(BUILD)/bin/,$(COMMANDS))

all: $(BINS)

$(PCH): lib/base/pch.hpp Makefile
	@mkdir -p $(@D)
	@echo "PCH   $@"
	@$(CXX) $(CXXFLAGS) -x c++-header $< -o $@

$(BUILD)/obj/%.o: %.cpp $(PCH)
	@mkdir -p $(@D)
	@echo "CXX   $<"
	@$(CXX) $(CXXFLAGS) -include $(BUILD)/pch.hpp -MMD -MP -c $< -o $@

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
	@$(CXX) $(LDFLAGS) -o $@ $^ -lCatch2WithMain $(LDLIBS)

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
.PHONY: all clean
