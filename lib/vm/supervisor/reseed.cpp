// SPDX-License-Identifier: MIT
#include "vm/supervisor/reseed.hpp"

#include <sys/stat.h>

namespace pv::vm {
namespace {

// Writing to /dev/urandom fills the pool, but its bytes are used only when the kernel next looks,
// seconds later. RNDRESEEDCRNG (include/uapi/linux/random.h) makes it look now, and no shell has
// that: the program written below (x86-64) is open("/dev/urandom"), ioctl(it, 0x5207), exit.
constexpr const char* k_reseed_script = R"sh(
cat >/dev/urandom || exit 1
p=/run/pv-reseed.$$
[ -d /run ] || p=/tmp/pv-reseed.$$
printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0>\0\1\0\0\0x\0@\0\0\0\0\0@\0\0\0\0\0\0\0' >"$p"
printf '\0\0\0\0\0\0\0\0\0\0\0\0@\08\0\1\0\0\0\0\0\0\0\1\0\0\0\5\0\0\0\0\0\0\0\0\0\0\0' >>"$p"
printf '\0\0@\0\0\0\0\0\0\0@\0\0\0\0\0\256\0\0\0\0\0\0\0\256\0\0\0\0\0\0\0\0\20\0\0\0\0\0\0' >>"$p"
printf '\270\2\0\0\0H\215=\35\0\0\0001\366\17\5\211\307\270\20\0\0\0\276\7R\0\0\17\5' >>"$p"
printf '\211\307\367\337\270<\0\0\0\17\5/dev/urandom\0' >>"$p"
chmod 700 "$p" && "$p" 2>/dev/null || perl -e 'open R, "/dev/urandom"; ioctl R, 0x5207, 0'
s=$?
rm -f "$p"
[ $s = 0 ] || { echo "the kernel takes no fresh entropy" >&2; exit 1; }
if read -r u </proc/sys/kernel/random/uuid; then
	[ -e /etc/machine-id ] && echo "$u" | tr -d - >/etc/machine-id
	true
fi
echo "$1" >/proc/sys/kernel/hostname
[ ! -e /etc/hostname ] || echo "$1" >/etc/hostname
)sh";

}  // namespace

GuestCommand reseed_command(const std::string& host_name, std::string entropy) {
  GuestCommand command;
  command.argv = {"/bin/sh", "-c", k_reseed_script, "sh", host_name};
  command.input = std::move(entropy);
  command.has_input = true;
  return command;
}

}  // namespace pv::vm
