// SPDX-License-Identifier: MIT
#include "vm/access/scripts.hpp"

#include <sys/stat.h>

#include <fmt/format.h>

#include "base/text.hpp"

namespace pv::vm {
namespace {

// Signals that scripts end with. The C library's own are 32 to 34, so that nobody uses the last.
constexpr int k_no_port = 61, k_no_directory = 62, k_no_user = 63;

// port NR: sets $d to its device. One that was plugged just now may take a moment to appear.
// hello: reads what the client sends first from stdin.
constexpr std::string_view k_prelude = R"sh(
find_port() {
	for p in /sys/class/virtio-ports/vport*p"$1"; do
		n=
		{ read -r n <"$p/name"; } 2>/dev/null
		d=/dev/${p##*/}
		[ "$n" = "org.provium.data.$1" ] && [ -c "$d" ] && return
	done
	return 1
}
port() {
	t=0
	until find_port "$1"; do
		t=$((t + 1))
		[ $t -le 500 ] || kill -61 $$
		sleep 0.01
	done
}
hello() {
	t=0
	until read -r x; do
		t=$((t + 1))
		[ $t -le 5000 ] || kill -61 $$
	done
}
)sh";

// enter DIRECTORY USER: $u is set for become().
constexpr std::string_view k_enter = R"sh(
enter() {
	[ -z "$1" ] || cd "$1" || kill -62 $$
	u=$2
	[ -n "$u" ] || return 0
	while IFS=: read -r n x i g x h x; do [ "$n" = "$u" ] && break; done </etc/passwd
	[ "$n" = "$u" ] || kill -63 $$
	export HOME="$h" USER="$u" LOGNAME="$u"
}
cannot() {
	printf 'pv-vm run: %s: %s\n' "$1" "$2" >&2
	exit "$3"
}
# The shell's own words for a command that cannot be started would name this script.
program() {
	# Local, so that the command has the variables of these names that it was given.
	local p=$1 x IFS=:
	case $1 in */*) ;; *)
		p=
		set -f
		for x in $PATH; do
			x=${x:-.}/$1
			[ -f "$x" ] && [ -x "$x" ] && p=$x && break
		done
		set +f
		;;
	esac
	[ -e "$p" ] || cannot "$1" "not found in the guest" 127
	[ ! -d "$p" ] || cannot "$1" "is a directory" 126
	[ -x "$p" ] || cannot "$1" "permission denied in the guest" 126
}
become() {
	program "$1"
	[ -n "$u" ] || exec "$@"
	case $(setpriv --help 2>&1) in
	*--reuid*) exec setpriv --reuid "$i" --regid "$g" --init-groups "$@" ;;
	*) exec su -m -s /bin/sh -c 'exec "$@"' -- "$u" "$0" "$@" ;;
	esac
}
)sh";

constexpr std::string_view k_run = R"sh(
port "$2"
e=$d
port "$1"
o=$d
if [ "$3" = - ]; then exec </dev/null; else
	port "$3"
	exec <"$d"
	hello
fi
enter "$4" "$5"
shift 5
exec >"$o" 2>"$e"
become "$@"
)sh";

constexpr std::string_view k_captured = R"sh(
enter "$1" "$2" 2>/dev/null
shift 2
become "$@"
)sh";

// For a transfer of $f: answers go to descriptor 3.
constexpr std::string_view k_answers = R"sh(
say() { echo "$*" >&3; }
refuse() {
	r=${1%%"
"*}
	say "no ${r##*: }"
	exit 1
}
# Whether hashes can be had in a fraction of the time that reading back takes.
can_hash() { if command -v pv-runner >/dev/null; then echo hash; fi; }
refuse_directory() { if [ -d "$f" ]; then refuse "it is a directory"; fi; }
)sh";

constexpr std::string_view k_put = R"sh(
port "$2"
exec 3<>"$d"
port "$3"
exec 5>"$d"
port "$1"
exec 6<"$d" <&6
hello
exec <&3
hello
f=$5
made=
refuse_directory
if [ -h "$f" ] && [ ! -e "$f" ]; then refuse "it is a link that leads to no file"; fi
if [ -e "$f" ] && [ ! -f "$f" ]; then refuse "it is not a regular file"; fi
if [ -h "$f" ]; then
	# A dot keeps newlines at the end of the name.
	f=$(readlink -fn "$f" && echo .) || refuse "the link cannot be followed"
	f=${f%.}
fi
t=$f$4
trap '[ -z "$made" ] || rm -f "$t"' EXIT
umask 077
r=$( { : >"$t"; } 2>&1) || refuse "$r"
made=1
exec 4>"$t"
say "ok $(can_hash)"
while read -r a b c; do
	case $a in
	take)
		r=$(dd bs=64k iflag=fullblock count="$b" <&6 2>&1 >&4) || refuse "$r"
		say ok
		;;
	back)
		wait
		dd bs=64k skip="$b" count="$c" if="$t" >&5 2>/dev/null &
		;;
	hash)
		wait
		pv-runner hash "$b" "$c" "ok hash $b" <"$t" >&3 &
		;;
	size)
		wait
		# Open for writing, it could not be run when it appears under its name.
		exec 4>&-
		say "ok $(stat -c %s "$t")"
		;;
	keep)
		r=$(chmod "$b" "$t" 2>&1 && mv -f "$t" "$f" 2>&1) || refuse "$r"
		made=
		say ok
		exit 0
		;;
	esac
done
)sh";

constexpr std::string_view k_get = R"sh(
port "$1"
exec 3<>"$d"
port "$2"
exec 4>"$d"
exec <&3
hello
f=$3
refuse_directory
r=$( { : <"$f"; } 2>&1) || refuse "$r"
# A file of sysfs has no block, and a page as its size, whatever it says.
size() {
	s=$(stat -L -c %s "$f")
	if [ "$(stat -L -c %b "$f")" = 0 ] && [ "$s" -gt 0 ] && [ "$s" -le 65536 ]; then
		s=$(wc -c <"$f" 2>/dev/null) || s=0
	fi
	echo "$((s))"
}
r=$(stat -L -c %a "$f" 2>&1) || refuse "$r"
say "ok $(size) $r $(can_hash)"
while read -r a; do
	if [ "$a" = hash ]; then
		pv-runner hash 0 9223372036854775807 ok <"$f" >&3
		continue
	fi
	r=$(cat "$f" 2>&1 >&4) || refuse "$r"
	say "ok $(size)"
done
)sh";

std::string with_prelude(std::string_view body) {
  return std::string(k_prelude) + std::string(body);
}

}  // namespace

const std::string k_run_script = with_prelude(std::string(k_enter) + std::string(k_run));
const std::string k_captured_script = std::string(k_enter) + std::string(k_captured);
const std::string k_put_script = with_prelude(std::string(k_answers) + std::string(k_put));
const std::string k_get_script = with_prelude(std::string(k_answers) + std::string(k_get));

std::optional<Error> script_failure(int signal, const std::string& directory,
                                    const std::string& user) {
  if (signal == k_no_port)
    return Error(Code::agent, "the guest does not see the data ports (is virtio_console loaded?)");
  if (signal == k_no_directory)
    return Error(Code::invalid, fmt::format("--cwd: the guest cannot change to directory '{}'",
                                            printable(directory)));
  if (signal == k_no_user)
    return Error(Code::invalid, fmt::format("--user: the guest has no user '{}'", printable(user)));
  return std::nullopt;
}

}  // namespace pv::vm
