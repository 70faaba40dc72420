// SPDX-License-Identifier: MIT
#include "vm/guest_scripts.hpp"

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
[ -z "$4" ] || cd "$4" || kill -62 $$
c=$4 u=$5
shift 5
if [ -n "$u" ]; then
	while IFS=: read -r n x i g x h x; do [ "$n" = "$u" ] && break; done </etc/passwd
	[ "$n" = "$u" ] || kill -63 $$
	export HOME="$h" USER="$u" LOGNAME="$u"
	case $(setpriv --help 2>&1) in
	*--reuid*) set -- setpriv --reuid "$i" --regid "$g" --init-groups "$@" ;;
	*) set -- su -m -s /bin/sh "$u" -c 'exec "$@"' sh "$@" ;;
	esac
fi
exec >"$o" 2>"$e"
exec "$@"
)sh";

constexpr std::string_view k_put = R"sh(
port "$2"
exec 3<>"$d"
port "$3"
exec 5>"$d"
port "$1"
exec <"$d"
hello
t=$4 o=
say() { echo "$*" >&3; }
exec 6<&0 <&3
hello
if [ -d "$5" ]; then say "no Is a directory"; exit; fi
trap '[ -z "$o" ] || rm -f "$t"' EXIT
umask 077
r=$( { : >"$t"; } 2>&1) || { say "no ${r##*: }"; exit; }
o=1
exec 4>"$t"
say ok
while read -r a b c; do
	case $a in
	take)
		r=$(dd bs=64k iflag=fullblock count="$b" <&6 2>&1 >&4) || { say "no ${r%%
*}"; exit; }
		say ok
		;;
	back) dd bs=64k skip="$b" count="$c" if="$t" >&5 2>/dev/null & ;;
	size)
		wait
		set -- "$1" "$2" "$3" "$4" "$5" "$6" "$(stat -c %s "$t")"
		say "ok $7"
		;;
	keep)
		exec 4>&-
		r=$(chmod "$6" "$t" 2>&1 && mv -f "$t" "$5" 2>&1) || { say "no ${r##*: }"; exit; }
		o=
		say ok
		exit
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
say() { echo "$*" >&3; }
if [ -d "$3" ]; then say "no Is a directory"; exit; fi
r=$( { : <"$3"; } 2>&1) || { say "no ${r##*: }"; exit; }
r=$(stat -L -c '%s %a' "$3") || { say "no cannot be examined"; exit; }
say "ok $r"
while read -r a; do
	r=$(cat "$3" 2>&1 >&4) || { say "no ${r##*: }"; exit; }
	say "ok"
done
)sh";

std::string with_prelude(std::string_view body) {
  return std::string(k_prelude) + std::string(body);
}

}  // namespace

const std::string k_run_script = with_prelude(k_run);
const std::string k_put_script = with_prelude(k_put);
const std::string k_get_script = with_prelude(k_get);

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
