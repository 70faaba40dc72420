# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# bash completion for the Provium tools. Verbs and flags come from the command's own --dump-cli, so
# nothing here has to change with them. Needs sed and stat, but not the package bash-completion.

declare -gA _provium_tables _provium_stamps

# Keeps the command line of $1 as lines "V verb help", "F names takes_value help" and
# "P positional", separated by tabs, until the program changes.
_provium_load() {
  local path stamp
  path=$(type -P -- "$1") || return
  stamp=$(stat -Lc '%n %Y' -- "$path") || return
  [[ ${_provium_stamps[$1]-} == "$stamp" ]] && return
  _provium_tables[$1]=$("$path" --dump-cli 2>/dev/null </dev/null |
    sed -E 's/\{"(name|names|positional)":/\n&/g' | sed -nE '
      s/^\{"name":"([^"]*)","help":"(([^"\\]|\\.)*)".*/V\t\1\t\2/p
      s/^\{"positional":"([^"]*)".*/P\t\1/p
      s/^\{"names":\["([^]]*)"\],"takes_value":(true|false),/F\t\1\t\2\t/
      /^F/{ s/","/ /g; s/[^\t]*"help":"(([^"\\]|\\.)*)".*/\1/; p }')
  _provium_stamps[$1]=$stamp
}

# The words that may stand for flag or positional $1; $2 is the folder of the commands, or "".
_provium_values() {
  case $1 in
    --json) echo compact pretty ;;
    --layer) "${2}pv-disk" layers -o name ;;
    --format | --format-a | --format-b) echo raw qcow2 vmdk vhdx vpc vdi luks qed parallels dmg ;;
    --op) echo read write flush discard zero map cache ;;
    --errno) echo EIO ENOSPC EPERM EROFS EINVAL ENOMEM ETIMEDOUT ENODEV EBUSY ;;
    --survivors) echo none all random listed ;;
    --accel) echo auto kvm tcg ;;
    --transport) echo nbd vhost-user auto ;;
    --profile) "${2}pv-vm" profiles -o name ;;
    action) echo build info clean ;;
    operation) echo run close list ;;
    scope_name) "${2}pv-vm" scope list -o name ;;
    --clock) echo keep host ;;
    --order) echo sequential random ;;
    snap) "${2}pv-snap" list -o name ;;
    words) "${2}pv-snap" list -o name; "${2}pv-vm" list -o name ;;
    --disk | disk) "${2}pv-disk" list -o id ;;
    vm | name | names) "${2}pv-vm" list -o name ;;
    --mode | mode) "${2}pv-fault" kinds -o name ;;
  esac 2>/dev/null </dev/null
}

_provium() {
  local command=${COMP_WORDS[0]} cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  local noun=${command##*/} verb='' i
  local folder=${command%"$noun"}
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; ++i)); do
    [[ ${COMP_WORDS[i]} == -- ]] && return
    [[ -z $verb && ${COMP_WORDS[i]} != -* ]] && verb=${COMP_WORDS[i]}
  done
  # bash takes "--json=pretty" for three words.
  [[ $cur == '=' ]] && cur=''
  [[ $prev == '=' ]] && prev=${COMP_WORDS[COMP_CWORD-2]}
  _provium_load "$command" || return

  local kind name takes rest scope='' wanted='' words=()
  while IFS=$'\t' read -r kind name takes rest; do
    if [[ $kind == V ]]; then
      scope=$name
      [[ -z $verb && $name != pv-* ]] && words+=("$name")
      continue
    fi
    [[ $scope == "${verb:-$noun}" ]] || continue
    if [[ $kind == P ]]; then
      wanted+=" $name"
    elif [[ " $name " == *" $prev "* && ( $takes == true || $prev == --json ) ]]; then
      wanted=${name##* } words=()
      break
    else
      # shellcheck disable=SC2206  # several names of one flag
      [[ $cur == -* ]] && words+=($name)
    fi
  done <<<"${_provium_tables[$command]}"

  if [[ $cur != -* ]]; then
    for name in $wanted; do
      case $name in
        --image | --template | --key-file | --from | --in | --kernel | --file | --config | \
          path | a | b)
          mapfile -t -O "${#words[@]}" words < <(compgen -f -- "$cur")
          compopt -o filenames 2>/dev/null ;;
        *)
          # shellcheck disable=SC2207  # words, not lines
          words+=($(_provium_values "$name" "$folder")) ;;
      esac
    done
  fi
  for name in "${words[@]}"; do
    [[ $name == "$cur"* ]] && COMPREPLY+=("$name")
  done
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *: ]] && compopt -o nospace 2>/dev/null
  return 0
}

complete -F _provium pv-vm pv-disk pv-fault pv-snap pv-verify
