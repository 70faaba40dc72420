// SPDX-License-Identifier: MIT
#include "vm/lan/nic.hpp"

#include <fmt/format.h>

#include "base/json.hpp"
#include "base/text.hpp"

namespace pv::vm {

// Every process costs a guest under TCG about 15 ms, so the shell does what it can. Lines of input:
// "nic MAC ADDRESS PREFIX NETMASK" and "host LINE"; the hosts replace those of the last time.
const char* const k_nic_script = R"sh(
modprobe -q virtio_net 2>/dev/null
nl='
'
mine=
while read -r kind rest; do
  case $kind in
  host) mine="$mine$rest$nl" ;;
  nic)
    set -- $rest "$1"
    n=0 dev=
    while [ -z "$dev" ]; do
      for f in /sys/class/net/*/address; do
        m=
        read -r m <"$f"
        [ "$m" = "$1" ] && dev=${f%/address} && dev=${dev##*/}
      done 2>/dev/null
      [ -n "$dev" ] && break
      n=$((n + 1))
      [ $n -lt $5 ] || { echo "no network card has the address $1" >&2; exit 1; }
      usleep 10000 2>/dev/null || sleep 0.01
    done
    if command -v ifconfig >/dev/null; then
      ifconfig "$dev" "$2" netmask "$4" up || exit 1
    else
      ip address replace "$2/$3" dev "$dev" && ip link set "$dev" up || exit 1
    fi
    set -- "$5"
    ;;
  esac
done
text= skip=
while IFS= read -r line || [ -n "$line" ]; do
  case $line in
  '# lans: begin') skip=1 ;;
  '# lans: end') skip= ;;
  *) [ -n "$skip" ] || text="$text$line$nl" ;;
  esac
done 2>/dev/null </etc/hosts
[ -z "$mine" ] || text="$text# lans: begin$nl$mine# lans: end$nl"
printf %s "$text" >/etc/hosts.new && mv /etc/hosts.new /etc/hosts
)sh";

std::string nic_script_input(const std::vector<NicSpec>& nics) {
  std::string input;
  for (const NicSpec& nic : nics) {
    const uint32_t mask = nic.prefix == 0 ? 0 : ~uint32_t{0} << (32 - nic.prefix);
    input += fmt::format("nic {} {} {} {}.{}.{}.{}\n", nic.mac, nic.address, nic.prefix, mask >> 24,
                         mask >> 16 & 0xff, mask >> 8 & 0xff, mask & 0xff);
    for (const std::string& line : nic.hosts) input += "host " + line + "\n";
  }
  return input;
}

json nic_to_json(const NicSpec& nic) {
  return {{"lan", nic.lan},         {"socket", nic.socket}, {"mac", nic.mac},
          {"address", nic.address}, {"prefix", nic.prefix}, {"up", nic.up},
          {"hosts", nic.hosts}};
}

Result<NicSpec> nic_from_json(const json& object) {
  NicSpec nic;
  nic.lan = get_string(object, "lan");
  nic.socket = get_string(object, "socket");
  nic.mac = get_string(object, "mac");
  nic.address = get_string(object, "address");
  nic.prefix = get_u64(object, "prefix", nic.prefix);
  nic.up = get_bool(object, "up", true);
  if (const json* hosts = find(object, "hosts"); hosts && hosts->is_array())
    for (const json& line : *hosts)
      if (line.is_string()) nic.hosts.push_back(line.get<std::string>());
  if (nic.lan.empty() || nic.mac.empty() || nic.address.empty() || nic.prefix > 32)
    return fail(Code::invalid, "a network card without a lan or an address");
  return nic;
}

std::string netdev_name(size_t slot) {
  return fmt::format("net{}", slot);
}
std::string nic_name(size_t slot) {
  return fmt::format("nic{}", slot);
}

json netdev_arguments(const NicSpec& nic, size_t slot) {
  if (nic.socket.empty())  // a hub of one port leads nowhere
    return {{"type", "hubport"}, {"id", netdev_name(slot)}, {"hubid", slot}};
  return {{"type", "stream"},
          {"id", netdev_name(slot)},
          {"server", false},
          {"addr", {{"type", "unix"}, {"path", nic.socket}}}};
}

json nic_arguments(const NicSpec& nic, size_t slot) {
  return {{"driver", "virtio-net-pci"},
          {"id", nic_name(slot)},
          {"bus", fmt::format("rp{}", slot)},
          {"netdev", netdev_name(slot)},
          {"mac", nic.mac},
          {"romfile", ""}};  // nobody boots from it
}

}  // namespace pv::vm
