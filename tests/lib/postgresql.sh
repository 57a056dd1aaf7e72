# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# A PostgreSQL cluster of the test's own, after common.sh: its data where the test wants it, its socket
# and log in $T/pg, no TCP port.  The server is stopped by pid when the script ends, whatever happens.

PG_BIN=
PG_DATA=

require_postgresql() {
    PG_BIN=$(find /usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -n 1)
    [ -x "${PG_BIN:-}/initdb" ] || skip "needs a PostgreSQL server (Debian package postgresql)"
    id postgres >/dev/null 2>&1 || skip "needs the user 'postgres'"
    trap _pg_exit EXIT
    mkdir -p "$T/pg"
    chown postgres "$T/pg"
    chmod 755 "$T"
}

# As the user postgres, in a directory that he may enter.
pg() {
    local tool=$1
    shift
    (cd / && PGHOST=$T/pg PGDATABASE=${PGDATABASE:-postgres} runuser -u postgres -- "$PG_BIN/$tool" "$@")
}

# pg_make DIR SCALE: a cluster with pgbench's tables, stopped.
pg_make() {
    PG_DATA=$1
    mkdir -p "$PG_DATA"
    chown postgres "$PG_DATA"
    pg initdb -D "$PG_DATA" -A trust --no-sync >"$T/pg/initdb.log" 2>&1 ||
        { cat "$T/pg/initdb.log" >&2; fail "initdb"; }
    pg_start
    pg pgbench -q -i -s "$2" >"$T/pg/pgbench-init.log" 2>&1 || { cat "$T/pg/pgbench-init.log" >&2; fail "pgbench -i"; }
    pg_stop
}

pg_start() {
    pg pg_ctl -D "$PG_DATA" -l "$T/pg/server.log" -s -w -t 120 \
        -o "-k $T/pg -c listen_addresses='' -c shared_buffers=128MB -c max_wal_size=256MB" start ||
        { tail -n 20 "$T/pg/server.log" >&2; fail "PostgreSQL does not start"; }
}

pg_stop() {
    [ -n "$PG_DATA" ] && [ -f "$PG_DATA/postmaster.pid" ] || return 0
    pg pg_ctl -D "$PG_DATA" -s -w -t 120 -m fast stop || true
}

# The server must not outlive the script.
_pg_exit() {
    local status=$? pid
    pid=$(head -n 1 "$PG_DATA/postmaster.pid" 2>/dev/null || true)
    [ -z "$pid" ] || kill -QUIT "$pid" 2>/dev/null || true
    _kill_jobs "$status"
}
