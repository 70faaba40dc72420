# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# How tests start commands and look at what they say. A process that a helper starts for itself
# costs more than most of the commands under test, so here is none that a shell can do without.

# The load.bash of a library of bats starts a process for each of its files.
pv_library() {
  local folder file folders
  IFS=: read -ra folders <<<"${BATS_LIB_PATH-}"
  for folder in "${folders[@]}"; do
    [ -d "$folder/$1/src" ] || continue
    # shellcheck disable=SC1090
    for file in "$folder/$1"/src/*.bash; do source "$file"; done
    return
  done
  bats_load_library "$1"
}
pv_library bats-support
pv_library bats-assert

# jq 1.6 takes 30 ms to begin. gojq speaks the same language, but sorts the keys of what it prints:
# who asks for their order calls `command jq`.
if hash gojq 2>/dev/null; then jq() { gojq "$@"; }; fi

# pv_trace: from here on bats follows the commands of the test itself only, which costs it more than
# the command often. Where one fails in a function its lines are told nevertheless.
pv_trace() {
  set +T
  trap pv_error_trap ERR
}
pv_error_trap() {
  local status=$?
  bats_capture_stack_trace
  # shellcheck disable=SC2034
  BATS_DEBUG_LAST_STACK_TRACE_IS_VALID=1
  (exit "$status")
  bats_error_trap
}

# run [!|-STATUS] [--separate-stderr] COMMAND…: like that of bats, of which it leaves out three
# processes and a temporary file.
run() {
  local flags=${-//T/} wanted='' apart='' said=${BATS_TEST_TMPDIR-$BATS_FILE_TMPDIR}.stderr
  set +eET
  while :; do
    case $1 in
      '!' | -[0-9]*) wanted=${1#-} ;;
      --separate-stderr) apart=1 ;;
      --) shift; break ;;
      *) break ;;
    esac
    shift
  done
  if [ "$apart" ]; then
    output=$("$@" 2>"$said")
    status=$?
    read -d '' -r stderr <"$said"
    IFS=$'\n' read -d '' -r -a stderr_lines <<<"$stderr"
  else
    output=$("$@" 2>&1)
    status=$?
  fi
  # shellcheck disable=SC2034
  IFS=$'\n' read -d '' -r -a lines <<<"$output"
  # shellcheck disable=SC2034
  BATS_RUN_COMMAND="$*"
  set "-$flags"
  case $wanted in
    '') return 0 ;;
    '!') [ "$status" -eq 0 ] || return 0 ;;
    *) [ "$status" -ne "$wanted" ] || return 0 ;;
  esac
  batslib_print_kv_single 8 command "$*" wanted "$wanted" status "$status" stdout "$output" \
    stderr "${apart:+$stderr}" | batslib_decorate 'not that exit status' | fail
}

# ok COMMAND…: it succeeds and says nothing on stderr; stdout is in $output.
ok() {
  run --separate-stderr "$@"
  [ "$status" -eq 0 ] && [ -z "$stderr" ] && return 0
  batslib_print_kv_single 8 command "$*" status "$status" stdout "$output" stderr "$stderr" |
    batslib_decorate 'expected success without a word on stderr' | fail
}

# expect_error CODE CLASS COMMAND…: one clear line on stderr, an error document with that code on
# stdout, that exit class. Stdin is empty unless the command makes its own.
expect_error() {
  local code=$1 class=$2
  shift 2
  run --separate-stderr "$@" </dev/null
  if [ "$status" -eq "$class" ] && [ "${#stderr_lines[@]}" -eq 1 ] && is_error "$code"; then
    return 0
  fi
  batslib_print_kv_single 8 command "$*" wanted "$code, exit $class, one line" status "$status" \
    stdout "$output" stderr "$stderr" | batslib_decorate 'not that error' | fail
}

# is_error CODE: $output ends with an error document of that code, with words in it.
is_error() {
  jq -se --arg code "$1" \
    'last | .v == 1 and .error.code == $code and (.error.message | length > 0)' \
    <<<"$output" >/dev/null
}

# has JQ_FILTER [DOCUMENT]: the filter is true of $output's last document (or of the one given).
has() {
  jq -se "last | $1" <<<"${2-$output}" >/dev/null && return 0
  batslib_print_kv_single 8 filter "$1" document "${2-$output}" |
    batslib_decorate 'not true of the document' | fail
}

code_of() { jq -r .error.code <<<"$output"; }

# until_true COMMAND…: it becomes true within $PV_WITHIN seconds (60). It is asked less often when
# that takes longer.
until_true() {
  local end=$((SECONDS + ${PV_WITHIN:-60})) rounds=0
  until "$@"; do
    [ "$SECONDS" -le "$end" ] || fail "never true: $*" || return
    case $((rounds++)) in
      [0-9]) sleep 0.02 ;;
      *) sleep 0.1 ;;
    esac
  done
}

# since_ms START_NS: whole milliseconds since `date +%s%N` printed START_NS.
since_ms() { echo $((($(date +%s%N) - $1) / 1000000)); }
