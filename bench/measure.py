#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measures commands, and makes tables of the measurements.

    measure.py run RESULTS TOOL STEP -- COMMAND...     appends one JSON line to RESULTS
    measure.py size RESULTS TOOL STEP DIRECTORY        the same, of the space a directory takes
    measure.py table RESULTS GIB                       a markdown table; GIB: size of the input

Wall time is the clock's; CPU time and peak memory are those of the command and all it waited for, as
the kernel counts them (wait4(2)).  With several runs of a step the median counts.
"""
import json
import os
import statistics
import sys
import time

TOOLS = ("umbra", "restic", "borg")
STEPS = ("first backup", "unchanged", "after changes", "full restore", "one file")


def run(results, tool, step, command):
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.execvp(command[0], command)
        except OSError as e:
            print("cannot run '%s': %s" % (command[0], e), file=sys.stderr)
        os._exit(127)
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - start
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        print("'%s' exited %d" % (" ".join(command), code), file=sys.stderr)
        return 1
    record(results, tool, step, wall_s=wall, cpu_s=usage.ru_utime + usage.ru_stime,
           rss_mib=usage.ru_maxrss / 1024)
    return 0


def record(results, tool, step, **values):
    with open(results, "a", encoding="utf-8") as f:
        f.write(json.dumps(dict(tool=tool, step=step, **values)) + "\n")


def size(results, tool, step, directory):
    total = 0
    for top, _, names in os.walk(directory):
        total += sum(os.lstat(os.path.join(top, n)).st_blocks * 512 for n in names)
    record(results, tool, step, repo_mib=total / (1 << 20))


def medians(results):
    """{(tool, step): {column: median}}"""
    lists = {}
    with open(results, encoding="utf-8") as f:
        for line in f:
            r = json.loads(line)
            cell = lists.setdefault((r.pop("tool"), r.pop("step")), {})
            for column, value in r.items():
                cell.setdefault(column, []).append(value)
    return {k: {c: statistics.median(v) for c, v in cell.items()} for k, cell in lists.items()}


def number(value):
    if value is None:
        return ""
    return "%.2f" % value if value < 10 else "%.1f" % value if value < 100 else "%.0f" % value


def ratio(cells, step, column, other):
    mine = cells.get(("umbra", step), {}).get(column)
    theirs = cells.get((other, step), {}).get(column)
    return "%.2f" % (mine / theirs) if mine is not None and theirs else ""


def table(results, gib):
    cells = medians(results)
    tools = [t for t in TOOLS if any(k[0] == t for k in cells)]
    print("| step | tool | wall s | CPU s | CPU s per GiB | peak RSS MiB | repository MiB |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for step in STEPS:
        for tool in tools:
            c = cells.get((tool, step))
            if c:
                print("| %s | %s | %s | %s | %s | %s | %s |" % (
                    step, tool, number(c.get("wall_s")), number(c.get("cpu_s")),
                    number(c["cpu_s"] / gib) if step != "one file" else "",
                    number(c.get("rss_mib")), number(c.get("repo_mib"))))
    others = [t for t in tools if t != "umbra"]
    if "umbra" not in tools or not others:
        return
    columns = (("wall_s", "wall"), ("cpu_s", "CPU"), ("rss_mib", "RSS"), ("repo_mib", "repository"))
    print("\nRatios (below 1: umbra needs less).\n")
    print("| step | " + " | ".join("%s umbra/%s" % (n, o) for o in others for _, n in columns) + " |")
    print("|---|" + "--:|" * (len(others) * len(columns)))
    for step in STEPS:
        row = [ratio(cells, step, c, o) for o in others for c, _ in columns]
        if any(row):
            print("| %s | %s |" % (step, " | ".join(row)))


def main(argv):
    if len(argv) > 6 and argv[1] == "run" and argv[5] == "--":
        return run(argv[2], argv[3], argv[4], argv[6:])
    if len(argv) == 6 and argv[1] == "size":
        return size(*argv[2:])
    if len(argv) == 4 and argv[1] == "table":
        return table(argv[2], float(argv[3]))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
