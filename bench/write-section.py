#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""write-section.py NAME PAGE REPORT: puts a report between the marks of bench/NAME.sh on a page.

The rest of the page stays as it is.
"""
import sys


def main():
    name, page, report = sys.argv[1:]
    begin, end = ("<!-- bench/%s.sh: %s -->" % (name, mark) for mark in ("begin", "end"))
    with open(page, encoding="utf-8") as f:
        head, rest = f.read().split(begin, 1)
    tail = rest.split(end, 1)[1]
    with open(report, encoding="utf-8") as f:
        text = f.read()
    with open(page, "w", encoding="utf-8") as f:
        f.write(head + begin + "\n" + text + "\n" + end + tail)


main()
