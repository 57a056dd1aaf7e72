#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Collects and shows the measurements of bench/cow.sh.

    cow-table.py note RESULTS FIO_JSON STATE SUBJECT LOAD    appends a line to RESULTS
    cow-table.py loads RESULTS                               a table for each state, and the aims
    cow-table.py holds FILE                                  a histogram; FILE: nanoseconds, a line each
    cow-table.py memory FILE                                 lines of WHEN, RSS, PSS (MiB), tabs between
"""
import json
import statistics
import sys

BARE, UMBRA = "bare loop device", "umbra"
PEERS = "qemu-storage-daemon", "nbdkit, loop"
PLAIN, AFTER = "without shadow", "right after a shadow"
AIM_PLAIN = 0.6    # of the bare loop device
AIM_AFTER = 0.5    # of that, for random writes of 4 KiB at depth 32
AIM_HOLD_MS = 10
AIM_MIB = 64
BUCKETS_MS = (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100)


def note(results, fio_json, state, subject, load):
    with open(fio_json, encoding="utf-8") as f:
        text = f.read()
    job = json.loads(text[text.index("{"):])["jobs"][0]  # some engines talk before it
    side = job["write" if "write" in load else "read"]
    with open(results, "a", encoding="utf-8") as f:
        f.write("%s\t%s\t%s\t%f\n" % (state, subject, load, side["iops"]))


def medians(results):
    """{state: {subject: {load: requests a second}}}, in the order of the file"""
    lists = {}
    with open(results, encoding="utf-8") as f:
        for line in f:
            state, subject, load, value = line.rstrip("\n").split("\t")
            lists.setdefault(state, {}).setdefault(subject, {}).setdefault(load, []).append(float(value))
    return {state: {subject: {load: statistics.median(v) for load, v in row.items()}
                    for subject, row in rows.items()} for state, rows in lists.items()}


def table(state, rows):
    columns = list(rows[BARE])
    print("**%s%s**: requests a second, and in brackets the part of the bare loop device's\n"
          % (state[0].upper(), state[1:]))
    print("| | " + " | ".join("%s %s, depth %s" % tuple(c.split()) for c in columns) + " |")
    print("|---|" + "--:|" * len(columns))
    for subject, row in rows.items():
        cells = ["%.0f" % row[c] if subject == BARE else "%.0f (%.2f)" % (row[c], row[c] / rows[BARE][c])
                 for c in columns]
        print("| %s | %s |" % (subject, " | ".join(cells)))
    print()


def verdict(is_met):
    return "met" if is_met else "**not met**"


def aims(states):
    rows = states[PLAIN]
    ratios = {c: rows[UMBRA][c] / rows[BARE][c] for c in rows[BARE]}
    worst = min(ratios, key=ratios.get)
    print("| aim | | |\n|---|---|---|")
    print("| without shadow at least %.2f of the bare loop device | %.2f to %.2f; least: %s | %s |"
          % (AIM_PLAIN, ratios[worst], max(ratios.values()), worst, verdict(ratios[worst] >= AIM_PLAIN)))
    behind = ["%s at %s" % (p, c) for p in PEERS for c in rows[BARE] if rows[p][c] > rows[UMBRA][c]]
    print("| and ahead of both peers, as block devices | %s | %s |"
          % ("behind " + ", ".join(behind) if behind else "in each load", verdict(not behind)))
    load, rows = "randwrite 4k 32", states[AFTER]
    ratio = rows[UMBRA][load] / rows[BARE][load]
    print("| right after a shadow, %s: at least %.2f | %.2f | %s |"
          % (load, AIM_PLAIN * AIM_AFTER, ratio, verdict(ratio >= AIM_PLAIN * AIM_AFTER)))
    print()


def loads(results):
    states = medians(results)
    for state, rows in states.items():
        table(state, rows)
    aims(states)


def holds(path):
    with open(path, encoding="utf-8") as f:
        times = sorted(int(line) / 1e6 for line in f)
    print("How long writes were held by %d shadows, under random writes of 4 KiB at depth 32:\n" % len(times))
    cells, start = [], 0.0
    for end in BUCKETS_MS:
        cells.append(("under %g ms" % end, sum(start <= t < end for t in times)))
        start = end
    cells.append(("more", sum(t >= start for t in times)))
    while cells[-1][1] == 0:
        cells.pop()
    print("| " + " | ".join(title for title, _ in cells) + " |")
    print("|" + "--:|" * len(cells))
    print("| " + " | ".join(str(count) for _, count in cells) + " |")
    p99 = times[len(times) * 99 // 100 - 1]
    print("\nHalf of them: %.2f ms, 99 %%: %.2f ms (aim: %d ms, %s), longest: %.2f ms.\n"
          % (times[len(times) // 2], p99, AIM_HOLD_MS, verdict(p99 < AIM_HOLD_MS), times[-1]))


def memory(path):
    with open(path, encoding="utf-8") as f:
        rows = [line.rstrip("\n").split("\t") for line in f]
    used = next(int(r[1]) for r in rows if r[0] == "used")
    rows = [r for r in rows if r[0] != "used"]
    print("Memory of umbra-cowd's processes for a volume of 1 TiB; the %.2f GiB that were written and kept are "
          "scattered over it:\n" % (used / (1 << 30)))
    print("| | RSS MiB | PSS MiB |\n|---|--:|--:|")
    for row in rows:
        print("| %s |" % " | ".join(row))
    print("\nAim: %d MiB, %s." % (AIM_MIB, verdict(all(float(r[2]) < AIM_MIB for r in rows))))


def main():
    {"note": note, "loads": loads, "holds": holds, "memory": memory}[sys.argv[1]](*sys.argv[2:])


main()
