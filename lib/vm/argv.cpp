// SPDX-License-Identifier: MIT
#include "vm/argv.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "base/time_text.hpp"

namespace pv::vm {
namespace {

constexpr uint64_t k_mib = 1 << 20;
constexpr size_t k_first_port_device = 4;  // 1..3 are left for fixed devices
constexpr size_t k_functions = 8;          // per PCI device
constexpr uint64_t k_max_queues = 4;       // of a vhost-user disk
constexpr uint64_t k_queue_size = 256;     // of each of them

// A comma in an option's value is written twice (QEMU's manual, "Standard options").
std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : value) text += c == ',' ? std::string(",,") : std::string(1, c);
  return text;
}

class Argv {
 public:
  explicit Argv(const std::string& program) : words_{program} {}
  void add(std::string option) { words_.push_back(std::move(option)); }
  void add(std::string option, std::string value) {
    words_.push_back(std::move(option));
    words_.push_back(std::move(value));
  }
  std::vector<std::string> take() { return std::move(words_); }

 private:
  std::vector<std::string> words_;
};

// On the guest's own clock: it stands still while the VM is paused, as the system's clock does.
void add_clock(Argv& argv, const Machine& m) {
  if (!m.config.initial_time_ns) return;
  const std::string start = utc_seconds(*m.config.initial_time_ns / k_ns_per_s);
  argv.add("-rtc", fmt::format("base={},clock=vm", start));
}

// With a seed, the guest's virtio-rng has the same bytes at every boot.
void add_rng(Argv& argv, const Machine& m) {
  std::string device = "virtio-rng-pci,bus=pcie.0,addr=0x2";
  if (m.config.rng_seed) {
    argv.add("-seed", std::to_string(*m.config.rng_seed));
    argv.add("-object", "rng-builtin,id=rng");
    device += ",rng=rng";
  }
  argv.add("-device", device);
}

// The guest's memory is a file without a name that the supervisor hands down (k_ram_fd), or a
// snapshot's, mapped copy-on-write, however many VMs use it. For QEMU both are files: since 8.1 it
// leaves shared memory out of a migration only where it is one, and no memfd of its own.
std::string ram_object(const Machine& m, uint64_t mib) {
  const std::string path =
      m.ram_file.empty() ? fmt::format("/proc/self/fd/{}", k_ram_fd) : escaped(m.ram_file);
  return fmt::format("memory-backend-file,id={},size={}M,share={},mem-path={}", k_ram_object, mib,
                     m.ram_file.empty() ? "on" : "off", path);
}

void add_machine(Argv& argv, const Machine& m) {
  const uint64_t mib = memory_bytes(m) / k_mib;
  argv.add("-name", m.name);
  argv.add("-nodefaults");
  argv.add("-no-user-config");
  argv.add("-display", "none");
  argv.add("-machine", fmt::format("{},memory-backend=ram", m.profile.machine));
  argv.add("-accel", m.accel == "kvm" ? "kvm" : "tcg,thread=multi");
  argv.add("-cpu", m.accel == "kvm" ? "host" : "qemu64");
  argv.add("-smp", std::to_string(cpus(m)));
  argv.add("-m", fmt::format("{}M", mib));
  argv.add("-object", ram_object(m, mib));
  add_clock(argv, m);
  // The firmware stays SeaBIOS: qboot would be quicker, but it tells an ELF kernel by a buffer that
  // QEMU 7.2 leaves on its stack (load_elfboot), and may load zeroes over it after a reset.
  if (m.profile.boots_from_disk()) return;
  argv.add("-kernel", m.profile.kernel);
  if (!m.profile.initrd.empty()) argv.add("-initrd", m.profile.initrd);
  argv.add("-append", kernel_cmdline(m));
}

void add_channels(Argv& argv, const Machine& m) {
  const auto socket = [&](const char* id, const char* file) {
    return fmt::format("socket,id={},path={},server=on,wait=off", id, escaped(m.dir + "/" + file));
  };
  // The log is written whether or not somebody is connected to the console.
  argv.add("-chardev",
           fmt::format("{},logfile={},logappend=on", socket("console", k_console_socket),
                       escaped(m.dir + "/" + k_console_log)));
  argv.add("-device", "isa-serial,chardev=console");
  argv.add("-chardev", socket("qmp0", k_own_qmp));
  argv.add("-mon", "chardev=qmp0,mode=control");
  argv.add("-chardev", socket("qmp", k_user_qmp));
  argv.add("-mon", "chardev=qmp,mode=control");
  add_rng(argv, m);
  argv.add("-device", "virtio-serial-pci,id=vser,bus=pcie.0,addr=0x3");
  argv.add("-chardev", socket("ga", k_agent_socket));
  argv.add("-device",
           "virtserialport,bus=vser.0,nr=1,chardev=ga,name=org.qemu.guest_agent.0,id=agent");
  if (m.profile.boots_from_disk()) return;
  argv.add("-chardev", socket("runner", k_runner_socket));
  argv.add("-device",
           fmt::format("virtserialport,bus=vser.0,nr={},chardev=runner,name=org.provium.runner,"
                       "id=runner",
                       k_runner_port));
}

size_t port_device(size_t slot) {
  return k_first_port_device + slot / k_functions;
}

void add_disks(Argv& argv, const Machine& m) {
  for (size_t i = 0; i < port_count(m); ++i) {
    argv.add("-device", fmt::format("pcie-root-port,id=rp{},bus=pcie.0,chassis={},slot={},"
                                    "addr=0x{:x}.{}{}",
                                    i, i + 1, i + 1, port_device(i), i % k_functions,
                                    i % k_functions == 0 ? ",multifunction=on" : ""));
  }
  for (size_t i = 0; i < m.disks.size(); ++i) {
    const DiskSpec& disk = m.disks[i];
    const size_t slot = disk_slot(m, i);
    if (disk.vhost_user)
      argv.add(
          "-chardev",
          fmt::format("socket,id={},path={},{}", disk_chardev(slot), escaped(disk.socket),
                      m.qemu.reconnect_ms ? fmt::format("reconnect-ms={}", k_reconnect_s * 1000)
                                          : fmt::format("reconnect={}", k_reconnect_s)));
    else if (disk.medium)
      argv.add("-blockdev", to_line(blockdev_arguments(disk, slot)));
    argv.add("-device", to_line(device_arguments(disk, slot, cpus(m))));
    if (disk.cdrom) argv.add("-device", to_line(drive_arguments(disk, slot)));
  }
  for (size_t i = 0; i < m.nics.size(); ++i) {
    const size_t slot = nic_slot(m, i);
    argv.add("-netdev", to_line(netdev_arguments(m.nics[i], slot)));
    argv.add("-device", to_line(nic_arguments(m.nics[i], slot)));
  }
}

void add_data_ports(Argv& argv, const Machine& m) {
  for (const size_t port : m.data_ports) {
    argv.add("-chardev", fmt::format("socket,id={},path={},server=on,wait=off", data_chardev(port),
                                     escaped(data_socket(m.dir, port))));
    argv.add("-device", to_line(data_port_arguments(port)));
  }
}

}  // namespace

size_t disk_slot(const Machine& machine, size_t n) {
  return machine.restored ? machine.disk_slots.at(n) : n;
}

size_t nic_slot(const Machine& machine, size_t n) {
  return machine.restored ? machine.nic_slots.at(n) : machine.disks.size() + n;
}

size_t port_count(const Machine& machine) {
  return machine.restored ? machine.ports : port_count(machine.disks.size() + machine.nics.size());
}

std::string data_device(size_t port) {
  return fmt::format("data{}", port);
}
std::string data_chardev(size_t port) {
  return fmt::format("datac{}", port);
}
std::string data_socket(const std::string& dir, size_t port) {
  return fmt::format("{}/d{}.sock", dir, port);
}

json data_port_arguments(size_t port) {
  return {{"driver", "virtserialport"},
          {"bus", "vser.0"},
          {"nr", port + k_first_data_nr},
          {"chardev", data_chardev(port)},
          {"name", fmt::format("org.provium.data.{}", port + k_first_data_nr)},
          {"id", data_device(port)}};
}

size_t port_count(size_t cold) {
  // Whole PCI devices of eight functions.
  return (cold + k_spare_ports + k_functions - 1) / k_functions * k_functions;
}

Result<DiskSpec> disk_spec(const json& state, const std::string& nbd_socket) {
  DiskSpec disk;
  disk.id = get_string(state, "id");
  disk.vhost_user = get_string(state, "transport") == "vhost-user";
  disk.socket = disk.vhost_user ? get_string(state, "vhost_socket") : nbd_socket;
  disk.serial = get_string(state, "serial");
  disk.host_key = get_string(state, "host_key");
  disk.sector_size = get_u64(state, "sector_size", 512);
  disk.physical_sector_size = get_u64(state, "physical_sector_size", disk.sector_size);
  disk.read_only = get_bool(state, "read_only");
  disk.discard = get_string(state, "discard") != "ignored";
  disk.discard_granularity = get_u64(state, "discard_granularity_bytes", disk.sector_size);
  disk.cdrom = get_bool(state, "cdrom");
  disk.medium = get_bool(state, "medium", true);
  if (disk.id.empty()) return fail(Code::bug, "a disk's state has no id");
  if (disk.serial.empty()) disk.serial = disk.id.substr(0, k_max_serial);
  if (disk.serial.size() > k_max_serial)
    return fail(Code::invalid, fmt::format("disk '{}': serial '{}' is longer than the {} "
                                           "characters that virtio-blk carries",
                                           disk.id, printable(disk.serial), k_max_serial));
  return disk;
}

std::string port_address(size_t slot) {
  return fmt::format("0000:00:{:02x}.{}", port_device(slot), slot % k_functions);
}

std::string node_name(size_t slot) {
  return fmt::format("disk{}", slot);
}
std::string drive_name(size_t slot) {
  return fmt::format("cd{}", slot);
}
std::string disk_chardev(size_t slot) {
  return fmt::format("vu{}", slot);
}
std::string device_name(size_t slot) {
  return fmt::format("vd{}", slot);
}

json blockdev_arguments(const DiskSpec& disk, size_t slot) {
  return {{"driver", "nbd"},
          {"node-name", node_name(slot)},
          {"server", {{"type", "unix"}, {"path", disk.socket}}},
          {"export", disk.host_key.empty() ? "" : "@" + disk.host_key},
          {"reconnect-delay", k_reconnect_s},
          {"read-only", disk.read_only},
          {"discard", "unmap"}};
}

json chardev_arguments(const DiskSpec& disk, size_t slot, const Qemu& qemu) {
  const json address = {{"type", "unix"}, {"data", {{"path", disk.socket}}}};
  json socket = {{"addr", address}, {"server", false}};
  if (qemu.reconnect_ms)
    socket["reconnect-ms"] = k_reconnect_s * 1000;
  else
    socket["reconnect"] = k_reconnect_s;
  return {{"id", disk_chardev(slot)}, {"backend", {{"type", "socket"}, {"data", socket}}}};
}

// A CD drive has a controller of its own, so that it is plugged and unplugged like a disk.
json device_arguments(const DiskSpec& disk, size_t slot, uint64_t cpus) {
  if (disk.cdrom)
    return {{"driver", "virtio-scsi-pci"},
            {"id", device_name(slot)},
            {"bus", fmt::format("rp{}", slot)}};
  json device = {{"driver", disk.vhost_user ? "vhost-user-blk-pci" : "virtio-blk-pci"},
                 {"id", device_name(slot)},
                 {"bus", fmt::format("rp{}", slot)}};
  if (disk.vhost_user)
    device.update({{"chardev", disk_chardev(slot)},
                   {"num-queues", std::min(cpus, k_max_queues)},
                   {"queue-size", k_queue_size}});
  else
    device.update({{"drive", node_name(slot)},
                   {"serial", disk.serial},
                   {"logical_block_size", disk.sector_size},
                   {"physical_block_size", std::max(disk.physical_sector_size, disk.sector_size)},
                   {"discard_granularity", disk.discard_granularity},
                   {"discard", disk.discard},
                   {"write-zeroes", true},
                   {"werror", "report"},
                   {"rerror", "report"}});
  if (disk.boot) device["bootindex"] = 1;
  return device;
}

json drive_arguments(const DiskSpec& disk, size_t slot) {
  if (!disk.cdrom) return nullptr;
  json drive = {{"driver", "scsi-cd"},
                {"id", drive_name(slot)},
                {"bus", device_name(slot) + ".0"},
                {"serial", disk.serial}};
  if (disk.medium) drive["drive"] = node_name(slot);
  return drive;
}

uint64_t memory_bytes(const Machine& machine) {
  return machine.config.memory_bytes.value_or(machine.profile.memory_bytes);
}

uint64_t cpus(const Machine& machine) {
  return machine.config.cpus.value_or(machine.profile.cpus);
}

std::string kernel_cmdline(const Machine& m) {
  // A command line that a person gave is theirs to the letter.
  std::string line =
      m.config.cmdline.value_or(fmt::format("{} pv.name={}", m.profile.cmdline, m.name));
  if (!m.config.cmdline_append.empty()) line += (line.empty() ? "" : " ") + m.config.cmdline_append;
  return line;
}

std::vector<std::string> build_argv(const Machine& machine) {
  Argv argv(machine.qemu.path);
  add_machine(argv, machine);
  add_channels(argv, machine);
  add_data_ports(argv, machine);
  add_disks(argv, machine);
  // With a vhost-user disk the CPUs wait until the supervisor has looked at their memory.
  const auto vhost_user = [](const DiskSpec& disk) { return disk.vhost_user; };
  if (machine.restored || std::any_of(machine.disks.begin(), machine.disks.end(), vhost_user))
    argv.add("-S");
  if (machine.restored) argv.add("-incoming", "defer");
  if (machine.qemu.sandbox) argv.add("-sandbox", k_sandbox);
  for (const std::string& arg : machine.profile.qemu_args) argv.add(arg);
  for (const std::string& arg : machine.config.qemu_args) argv.add(arg);
  return argv.take();
}

}  // namespace pv::vm
