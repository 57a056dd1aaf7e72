#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Input of the benchmarks: the same for the same arguments.

    make-data.py sqlite FILE MIB       a database of customers and orders, as a shop has them
    make-data.py random FILE MIB       bytes that no compressor can shorten
    make-data.py insert FILE COUNT     puts COUNT bytes into the middle of a file
    make-data.py touch DIR PERCENT     changes contents of that share of the regular files
"""
import os
import random
import sqlite3
import sys

FIRST = "Anna Bruno Carla David Emma Felix Greta Hugo Ida Jonas Klara Louis Maria Nina Otto".split()
LAST = "Meyer Smith Rossi Novak Jensen Silva Dubois Kowalski Ivanov Garcia Nagy Larsen".split()
STATES = ("open", "paid", "shipped", "returned")
BATCH = 20000


def fill(db, rng, batch):
    customers = []
    orders = []
    for i in range(batch * BATCH, (batch + 1) * BATCH):
        first, last = rng.choice(FIRST), rng.choice(LAST)
        customers.append((i, first + " " + last, "%s.%s%d@example.org" % (first, last, i),
                          "%d %s street" % (rng.randrange(1, 300), last), rng.randbytes(16)))
        for _ in range(rng.randrange(6)):
            orders.append((i, rng.randrange(1500000000, 1700000000), rng.choice(STATES),
                           rng.randrange(100, 100000), "%032x" % rng.getrandbits(128)))
    db.executemany("insert into customers values (?,?,?,?,?)", customers)
    db.executemany("insert into orders (customer, at, state, cents, reference) values (?,?,?,?,?)",
                   orders)
    db.commit()


def sqlite(path, mib):
    rng = random.Random(7)
    db = sqlite3.connect(path)
    db.executescript("""
        pragma journal_mode = off; pragma synchronous = off;
        create table customers (id integer primary key, name text, mail text, address text, token blob);
        create table orders (id integer primary key, customer integer, at integer, state text,
                             cents integer, reference text);
        create index orders_customer on orders (customer, at);
    """)
    batch = 0
    while os.stat(path).st_size < int(mib) << 20:
        fill(db, rng, batch)
        batch += 1
    db.close()


def random_file(path, mib):
    rng = random.Random(11)
    with open(path, "wb") as f:
        for _ in range(int(mib)):
            f.write(rng.randbytes(1 << 20))


def insert(path, count):
    with open(path, "r+b") as f:
        half = os.fstat(f.fileno()).st_size // 2
        f.seek(half)
        tail = f.read()
        f.seek(half)
        f.write(random.Random(count).randbytes(int(count)) + tail)


def touch(top, percent):
    rng = random.Random(13)
    changed = 0
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            if rng.random() * 100 >= float(percent) or os.path.islink(path):
                continue
            with open(path, "ab") as f:
                f.write(b"\n/* changed by the benchmark */\n")
            changed += 1
    print("%d files changed" % changed)


def main(argv):
    verbs = {"sqlite": sqlite, "random": random_file, "insert": insert, "touch": touch}
    if len(argv) != 4 or argv[1] not in verbs:
        print(__doc__, file=sys.stderr)
        return 2
    verbs[argv[1]](argv[2], argv[3])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
