# SPDX-License-Identifier: MIT
# Provium for Makefiles:
#
#   include $(shell provium mk)
#   test-image: image.raw
#   	$(PV_IN_SCOPE) ./check-image image.raw
#   $(eval $(call pv_bats,check-vm,tests/vm))
#
# See provium(7). (The prefix is not called PV_SCOPE: make would export it in place of the scope.)

# Before a command: runs it in a fresh scope, which is torn down whatever happens.
PV_IN_SCOPE ?= pv-vm scope run --

# $(eval $(call pv_bats,TARGET,FOLDER)): a phony target that runs the BATS files of a folder in a
# scope. PV_BATS_FLAGS, for example --jobs 4, goes to bats.
BATS ?= bats
PV_BATS_FLAGS ?=
define pv_bats
.PHONY: $(1)
$(1):
	$$(PV_IN_SCOPE) $$(BATS) $$(PV_BATS_FLAGS) $(2)
endef
