# SPDX-License-Identifier: MIT
"""Four disks at once: the sum of their 4k random reads, against one disk alone and nbdkit."""
import os
import statistics
import subprocess

import nbd
import servers

DISKS = 4
SIZE = 128 << 20


class Crowd:
    """Several servers of one kind, and the sum of what they serve."""

    def __init__(self, kind, count, folder):
        self.members = []
        for number in range(count):
            own = os.path.join(folder, f"{kind}{number}")
            os.mkdir(own)
            image = os.path.join(own, "image")
            nbd.make_image(image, SIZE)
            if kind == "provium":
                name = f"crowd{number}"
                self.members.append(servers.Provium(name, ["--image", image]))
            else:
                self.members.append(servers.start(kind, image, own))
        self.folders = [os.path.join(folder, f"{kind}{n}") for n in range(count)]

    def iops(self, seconds):
        jobs = [nbd.start_fio(member, nbd.WORKLOADS["4k randread qd32"], seconds)
                for member in self.members]
        return sum(nbd.finish_fio(job, reads=True)["iops"] for job in jobs)

    def stop(self):
        for member in self.members:
            member.stop()
        for folder in self.folders:
            subprocess.run(["rm", "-rf", folder], check=True)


def measure(folder, rounds, seconds):
    runs = {"one": [], "four": [], "nbdkit four": []}
    for _ in range(rounds):
        for label, kind, count in (("one", "provium", 1), ("four", "provium", DISKS),
                                   ("nbdkit four", "nbdkit", DISKS)):
            crowd = Crowd(kind, count, folder)
            try:
                runs[label].append(crowd.iops(seconds))
            finally:
                crowd.stop()
    median = {label: statistics.median(values) for label, values in runs.items()}
    table = [{"what": label, "iops": median[label],
              "ratio_to_one": statistics.median(a / b for a, b in zip(values, runs["one"])),
              "ours_ratio": statistics.median(a / b for a, b in zip(runs["four"], values))}
             for label, values in runs.items()]
    print(f"{os.cpu_count()} processors, clients included")
    for row in table:
        print(f"{row['what']:<14} {row['iops']/1e3:>9.1f} kIOPS   {row['ratio_to_one']:.2f} x one"
              f"   four of ours / this {row['ours_ratio']:.2f}")
    return table
