#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""rto-table.py RESULTS FILES: the table of bench/rto.sh, from lines of TOOL, WHAT, VALUE."""
import sys

COLUMNS = (("usable_ms", "usable s", 1000), ("first_byte_ms", "first byte ms", 1),
           ("postgresql_ms", "PostgreSQL answers s", 1000), ("complete_ms", "complete s", 1000))
PEERS = ("restic", "borg", "restic mount", "borg mount")


def main():
    values = {}
    with open(sys.argv[1], encoding="utf-8") as f:
        for line in f:
            tool, what, value = line.rstrip("\n").split("\t")
            values.setdefault(tool, {})[what] = float(value)
    print("| | " + " | ".join(title for _, title, _ in COLUMNS) + " |")
    print("|---|" + "--:|" * len(COLUMNS))
    for tool, row in values.items():
        cells = ["%.2f" % (row[key] / unit) if key in row else "" for key, _, unit in COLUMNS]
        print("| %s | %s |" % (tool, " | ".join(cells)))
    instant = values["umbra --instant"]
    best = min(values[p]["postgresql_ms"] for p in PEERS if "postgresql_ms" in values.get(p, {}))
    print("\nPlaceholders: %.0f a second. Large files alone are usable after %.2f s. PostgreSQL answers "
          "%.1f times sooner than with the best peer. Complete after %.2f times what an ordinary "
          "restore takes. Reading 4 KiB that is not there yet, the background saturated: median "
          "%.0f us, 99 %%: %.0f us. A read after the end costs %.2f times one of a file that umbra "
          "never saw."
          % (float(sys.argv[2]) / instant["usable_ms"] * 1000,
             instant["large_usable_ms"] / 1000, best / instant["postgresql_ms"],
             instant["complete_ms"] / values["umbra"]["complete_ms"], instant["demand_p50_us"],
             instant["demand_p99_us"], instant["read_cost_ratio"]))


main()
