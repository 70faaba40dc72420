// SPDX-License-Identifier: MIT
// The QEMU command line, as a pure function of what a VM is. Devices sit at fixed addresses, so
// that a guest sees the same machine each time and a snapshot finds each device again.
#pragma once

#include <string>
#include <vector>

#include "base/json_fwd.hpp"
#include "vm/lan/nic.hpp"
#include "vm/machine.hpp"
#include "vm/profile/config.hpp"
#include "vm/profile/profile.hpp"

namespace pv::vm {

// Hot-plug works on root ports only, never on q35's root bus, so every disk gets one, and some are
// kept free. Each costs the guest about 10 ms of its boot under TCG, hence no more than needed.
constexpr size_t k_spare_ports = 4;
constexpr size_t k_max_ports = 64;
constexpr size_t k_max_cold_disks = k_max_ports - k_spare_ports;
// `cold` counts the disks and network cards that are there from the start.
size_t port_count(size_t cold);
// How long QEMU holds requests of a disk whose server is gone before the guest sees errors; and how
// often it looks for that of a vhost-user disk, whose requests wait however long it takes.
constexpr int k_reconnect_s = 1;
// virtio-blk hands the guest this much of a serial and silently drops the rest.
constexpr size_t k_max_serial = 20;

// A disk as QEMU needs to know it, from the state of a disk object.
struct DiskSpec {
  std::string id;
  std::string socket;
  std::string serial;
  std::string host_key;  // "" where the VM is no host in particular
  uint64_t sector_size = 512;
  uint64_t physical_sector_size = 512;
  bool read_only = false;
  bool discard = true;  // the guest may discard
  uint64_t discard_granularity = 512;
  bool cdrom = false;
  bool medium = true;  // a CD drive may be empty
  bool boot = false;   // the firmware starts from it
  // A device whose other half is the server; `socket` is its vhost-user one. What is above of
  // serial, sectors, discard and read-only, the guest hears from the server.
  bool vhost_user = false;
};
Result<DiskSpec> disk_spec(const json& state, const std::string& nbd_socket);

// Arguments of QMP's blockdev-add, chardev-add and device_add, and in the same form of -blockdev
// and -device. Names come from the slot: QEMU allows node names of 31 characters, a disk's id may
// be longer.
json blockdev_arguments(const DiskSpec& disk, size_t slot);
json chardev_arguments(const DiskSpec& disk, size_t slot, const Qemu& qemu);
json device_arguments(const DiskSpec& disk, size_t slot, uint64_t cpus = 1);
// What goes on the device: the CD drive on its controller. Null for other disks.
json drive_arguments(const DiskSpec& disk, size_t slot);
// The port's PCI address as the guest sees it.
std::string port_address(size_t slot);
std::string node_name(size_t slot);
std::string drive_name(size_t slot);
std::string disk_chardev(size_t slot);
std::string device_name(size_t slot);

struct Machine {
  std::string name;   // of the VM
  std::string dir;    // of the VM's object: sockets and console log
  std::string accel;  // kvm, tcg
  VmConfig config;
  Profile profile;
  Qemu qemu;
  std::vector<DiskSpec> disks;  // slots 0, 1, …
  std::vector<NicSpec> nics;    // in the slots after those
  // Only of one that is restored from a snapshot: everything where it was, and QEMU waits for its
  // state.
  bool restored = false;
  std::string ram_file;                       // that QEMU maps privately; "" for k_ram_fd
  size_t ports = 0;                           // root ports
  std::vector<size_t> disk_slots, nic_slots;  // of each of `disks`, `nics`
  std::vector<size_t> data_ports;             // that were plugged
};
// Where the n-th disk or card is, and how many root ports there are.
size_t disk_slot(const Machine& machine, size_t n);
size_t nic_slot(const Machine& machine, size_t n);
size_t port_count(const Machine& machine);

uint64_t memory_bytes(const Machine& machine);
uint64_t cpus(const Machine& machine);
// The kernel's command line, without and with what was appended.
std::string kernel_cmdline(const Machine& machine);

std::vector<std::string> build_argv(const Machine& machine);

// Data ports (supervisor/data_ports.hpp) by number, from 0.
std::string data_device(size_t port);
std::string data_chardev(size_t port);
std::string data_socket(const std::string& dir, size_t port);
// Arguments of QMP's device_add.
json data_port_arguments(size_t port);
constexpr size_t k_first_data_nr = 2;  // 0 is the console's, 1 the agent's

// Files in the VM's directory that QEMU makes.
constexpr const char* k_console_log = "console.log";
constexpr const char* k_console_socket = "con.sock";
constexpr const char* k_user_qmp = "qmp.sock";
constexpr const char* k_own_qmp = "qmp0.sock";
constexpr const char* k_agent_socket = "ga.sock";
constexpr const char* k_runner_socket = "run.sock";  // of a guest that boots from an initrd
constexpr size_t k_runner_port = 30;                 // the guest's /init knows it too

// Descriptors that QEMU begins with: the state of a snapshot that it is to load, and the guest's
// memory, where that is not a snapshot's file.
constexpr int k_state_fd = 3;
constexpr int k_ram_fd = 4;
// Of -sandbox: what QEMU may not do.
constexpr const char* k_sandbox =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
constexpr const char* k_ram_object = "ram";  // which that memory is for QEMU

}  // namespace pv::vm
