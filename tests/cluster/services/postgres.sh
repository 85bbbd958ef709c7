#!/bin/sh
# The part of the official image's contract that the manifests use: POSTGRES_USER, POSTGRES_DB,
# POSTGRES_PASSWORD_FILE or POSTGRES_PASSWORD, PGDATA, and any user but root.
set -eu

if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
  password="${POSTGRES_PASSWORD_FILE:-/tmp/password}"
  [ -n "${POSTGRES_PASSWORD_FILE:-}" ] || (umask 077 && printf '%s' "$POSTGRES_PASSWORD" > "$password")
  initdb --username "$POSTGRES_USER" --pwfile "$password" --encoding UTF8 --locale C.UTF-8 --auth-host scram-sha-256 --auth-local trust
  printf 'host all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
  printf "listen_addresses = '*'\n" >> "$PGDATA/postgresql.conf"
  pg_ctl start --wait --options "-c listen_addresses=''"
  createdb --username "$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl stop --wait
fi
exec "$@"
