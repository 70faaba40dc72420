#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# If this fails, a verb does in some state of a VM what pv-vm(1) does not say. One table: for each
# verb and each state that a VM can be in, the state afterwards, "=" for no change, or "-" for a
# refusal that names the state and what is allowed.

load helper
setup() {
  pv_setup
  need_guest
}
teardown() { pv_teardown; }

k_states=(created booted paused shutdown dead)
k_table='
# verb         created   booted    paused    shutdown  dead
boot           booted    -         -         booted    -
pause          -         paused    -         -         -
resume         -         -         booted    -         -
reset          -         booted    -         -         -
power-button   -         shutdown  -         -         -
shutdown       shutdown  shutdown  shutdown  shutdown  shutdown
close          gone      gone      gone      gone      gone
run            -         =         -         -         -
put            -         =         -         -         -
get            -         =         -         -         -
tail           -         =         -         -         -
clock          -         =         -         -         -
info           =         =         =         =         =
list           =         =         =         =         =
console        =         =         =         =         =
events         =         =         =         =         =
argv           =         =         =         =         =
wait           =         =         =         =         =
'
# Verbs that are not about one VM.
k_others='create doctor guest lan profiles scope'

call() {
  case $1 in
    run) pv-vm run v -- true ;;
    put) echo x | pv-vm put v - /tmp/x ;;
    get) pv-vm get v /etc/passwd - ;;
    tail) pv-vm tail v /etc/passwd ;;
    clock) pv-vm clock v get ;;
    list) pv-vm list ;;
    wait) pv-vm wait v --state "$2" ;;
    *) pv-vm "$1" v ;;
  esac </dev/null
}

state() { pv-vm info v -o state </dev/null 2>/dev/null || echo gone; }

# enter STATE: whatever v is now. $flags are those of its creation.
enter() {
  local now
  [ "$(state)" != gone ] || pv-vm create v $flags </dev/null >/dev/null
  now=$(state)
  [ "$now" != "$1" ] || return 0
  case $1 in
    created) pv-vm close v && pv-vm create v $flags ;;
    booted)
      case $now in
        paused) pv-vm resume v ;;
        created | shutdown) pv-vm boot v ;;
        *) enter created && pv-vm boot v ;;
      esac ;;
    paused) enter booted && pv-vm pause v ;;
    shutdown) pv-vm shutdown v ;;
    dead)
      enter booted
      kill -KILL "$(pv-vm info v -o pid)"
      pv-vm wait v --state dead ;;
  esac </dev/null >/dev/null || fail "cannot make v $1 (it was $now)"
}

# try VERB STATE WANTED
try() {
  local status=0 flags=$flags
  if [ "$1" = power-button ] && [ "$3" != - ]; then # only this one is the guest's to answer
    flags=''
    pv-vm close v </dev/null >/dev/null
  fi
  enter "$2"
  call "$1" "$2" >out 2>err || status=$?
  if [ "$3" = - ]; then
    [ "$status" -ne 0 ] && [ "$(state)" = "$2" ] && [ "$(wc -l <err)" -eq 1 ] ||
      fail "$1 of a VM that is $2: status $status, now $(state): $(cat out err)"
    grep -q "is $2" err || fail "$1 of a VM that is $2 does not name the state: $(cat err)"
    grep -q '^{' out || return 0  # raw output has no document
    has ".error.code == \"wrong_state\" and .error.state == \"$2\"" "$(cat out)"
    has '.error.allowed | length > 0 and all(. != "'"$2"'")' "$(cat out)"
  else
    [ "$status" -eq 0 ] || fail "$1 of a VM that is $2: status $status: $(cat out err)"
    [ "$3" = = ] && set -- "$1" "$2" "$2"
    [ "$(state)" = "$3" ] || fail "$1 of a VM that is $2 makes it $(state), not $3"
  fi
}

rows() { grep -v -e '^#' -e '^$' <<<"$k_table"; }

@test "every verb about a VM is in the table" {
  run -0 jq -r '.verbs[].name' <<<"$(pv-vm --dump-cli)"
  for verb in $output; do
    [[ " $k_others " == *" $verb "* ]] || rows | grep -q "^$verb " || fail "no row for $verb"
  done
}

@test "every verb in every state: what changes nothing" {
  flags=''
  # In an order that takes one boot.
  for state in 0 1 2 4 3; do
    while read -r verb wanted; do
      read -ra wanted <<<"$wanted"
      case ${wanted[$state]} in - | =) try "$verb" "${k_states[$state]}" "${wanted[$state]}" ;; esac
    done < <(rows)
  done
}

@test "every verb in every state: what changes it" {
  bare_profile
  flags='--profile bare'
  while read -r verb wanted; do
    read -ra wanted <<<"$wanted"
    for state in "${!k_states[@]}"; do
      case ${wanted[$state]} in
        - | =) ;;
        *) try "$verb" "${k_states[$state]}" "${wanted[$state]}" ;;
      esac
    done
  done < <(rows)
}
