#!/usr/bin/env bash
# Run the database part of the suite on PostgreSQL 15, the oldest we support, from Debian's package:
#
#     tests/run_on_postgres15.sh [pytest] [arguments for pytest ...]
#
# The cluster is private to this run: its own directory, its own port, gone afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

pytest=${1:-.venv/bin/pytest}
shift || true
bin=/usr/lib/postgresql/15/bin

skip() {
    printf '\n**** SKIPPED: the PostgreSQL 15 pass did not run: %s ****\n\n' "$1"
    exit 0
}

install() {
    [ "$(id -u)" -eq 0 ] || skip "postgresql-15 is not installed, and only root may install it"
    command -v apt-get >/dev/null || skip "postgresql-15 is not installed, and there is no apt-get"
    export DEBIAN_FRONTEND=noninteractive
    # Debian's package would start a cluster of its own; nobody asked for that one.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] \
        || echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    { apt-get update -qq && apt-get install -y -qq -o Dpkg::Options::=--force-confold --no-install-recommends postgresql-15; } >/dev/null \
        || skip "apt-get could not install postgresql-15"
}

[ -x "$bin/initdb" ] || install

# PostgreSQL refuses to run as root.
as_owner() { if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

home=$(mktemp -d /tmp/landed-pg15-XXXXXX)
if [ "$(id -u)" -eq 0 ]; then chown postgres "$home"; fi
stop() {
    as_owner "$bin/pg_ctl" -D "$home/data" -m immediate -s stop || true
    rm -rf "$home"
}
trap stop EXIT

port=$("$(dirname "$pytest")/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
as_owner "$bin/initdb" -D "$home/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 >/dev/null
as_owner "$bin/pg_ctl" -D "$home/data" -l "$home/log" -s -w start -o \
    "-p $port -k $home -c listen_addresses= -c fsync=off -c max_connections=200 -c timezone=UTC" \
    || { cat "$home/log" >&2; exit 1; }

as_owner "$bin/postgres" --version
LANDED_TEST_DATABASE_URL="postgresql://postgres@/postgres?host=$home&port=$port" \
    "$pytest" tests/integration -m "not slow" "$@"
