#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a preset cannot be used on a disk of some size.

load helper
setup() { pv_setup; }
teardown() { pv_teardown; }

@test "every preset can be added to a small disk and to a large one, and comes off again" {
  local name size wanted
  serve small --memory 1M
  serve large --memory 1G
  ok pv-fault preset -o name
  local names=("${lines[@]}")
  ((${#names[@]} >= 9))
  for size in small large; do
    for name in "${names[@]}"; do
      ok pv-fault preset "$name" --disk "$size"
      ok pv-fault list --disk "$size" -o id
      wanted=$(pv-fault preset </dev/null |
        jq -r --arg name "$name" '.preset | select(.name == $name) | .rules[].id')
      assert_equal "$size $name: $output" "$size $name: $wanted"
      ok pv-fault clear --disk "$size"
      ok pv-disk read "$size" -o data.length_bytes
    done
  done
}
