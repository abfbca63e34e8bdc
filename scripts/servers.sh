# shellcheck shell=bash
# Redis and PostgreSQL for the tests: those that REDIS_URL and DATABASE_URL name, or throwaway
# ones that listen on the loopback interface only, and a PgBouncer before it. To be sourced, after
# tools.sh; the caller calls stop_servers when it ends.

servers_dir=
redis_pid=
pgbouncer_pid=
postgres_bin=

# Sets and exports REDIS_URL.
provide_redis() {
  if [[ -n ${REDIS_URL:-} ]]; then return; fi
  local server
  server=$(find_redis) \
    || { apt_install redis-server && server=$(find_redis); } \
    || fail "Redis is missing: install redis-server or valkey-server, or set REDIS_URL"
  make_servers_dir
  local port
  for port in $(some_ports); do
    if start_redis "$server" "$port"; then
      export REDIS_URL="redis://127.0.0.1:$port/"
      return
    fi
  done
  cat "$servers_dir/redis.log" >&2
  fail "Redis does not start, as its log above says: set REDIS_URL to one that runs"
}

# Sets and exports DATABASE_URL. One that names another kind of database is of no use here.
provide_postgres() {
  if [[ ${DATABASE_URL:-} == postgres://* || ${DATABASE_URL:-} == postgresql://* ]]; then return; fi
  postgres_bin=$(find_postgres) \
    || { apt_install postgresql && postgres_bin=$(find_postgres); } \
    || fail "PostgreSQL is missing: install postgresql or set DATABASE_URL"
  make_servers_dir
  init_postgres \
    || fail "PostgreSQL's initdb failed, as it says above: set DATABASE_URL to a server that runs"
  local port
  for port in $(some_ports); do
    if start_postgres "$port"; then
      export DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
      return
    fi
  done
  cat "$servers_dir/postgres/log" >&2
  fail "PostgreSQL does not start, as its log above says: set DATABASE_URL to one that runs"
}

# provide_pgbouncer MODE SETTING...: a PgBouncer in that pool_mode, before the PostgreSQL of DATABASE_URL.
# Sets PGBOUNCER_URL, which names the same database.
provide_pgbouncer() {
  need_pgbouncer
  make_servers_dir
  mkdir "$servers_dir/pgbouncer"
  if ((EUID == 0)); then chown "$(postgres_user)" "$servers_dir/pgbouncer"; fi
  local port address=${DATABASE_URL#*://}
  local path=${address#*/} authority=${address%%/*}
  for port in $(some_ports); do
    if start_pgbouncer "$port" "$authority" "pool_mode=$1" "${@:2}"; then
      # Every user is let in, and the server knows them by the authority above.
      PGBOUNCER_URL="postgres://pooled@127.0.0.1:$port/$path"
      return
    fi
  done
  cat "$servers_dir/pgbouncer/log" >&2
  fail "PgBouncer does not start, as its log above says"
}

# Stops what was started and removes its data. Does nothing the second time.
stop_servers() {
  if [[ -n $pgbouncer_pid ]]; then
    # The process is a shell, which waits for the program.
    kill -KILL "$(<"$servers_dir/pgbouncer/pid")" 2>/dev/null || true
    wait "$pgbouncer_pid" 2>/dev/null || true
    pgbouncer_pid=
  fi
  if [[ -n $redis_pid ]]; then
    kill -KILL "$redis_pid" 2>/dev/null || true
    wait "$redis_pid" 2>/dev/null || true
    redis_pid=
  fi
  if [[ -e $servers_dir/postgres/data/postmaster.pid ]]; then
    unprivileged pg_ctl stop -D "$servers_dir/postgres/data" -m immediate >/dev/null 2>&1 || true
  fi
  if [[ -n $servers_dir ]]; then
    rm -rf "$servers_dir"
    servers_dir=
  fi
}

find_redis() {
  command -v redis-server || command -v valkey-server
}

# Starts the server in the background and waits until it is ready. Its own log is asked, not the
# port: something else may listen there, and then the server ends at once.
start_redis() {
  local server=$1 port=$2 log=$servers_dir/redis.log
  : >"$log"
  "$server" --bind 127.0.0.1 --port "$port" --dir "$servers_dir" --save '' --appendonly no \
    </dev/null >"$log" 2>&1 &
  redis_pid=$!
  until grep -q 'Ready to accept connections' "$log"; do
    if ! kill -0 "$redis_pid" 2>/dev/null; then
      redis_pid=
      return 1
    fi
    sleep 0.05
  done
}

# The directory of PostgreSQL's programs. Debian keeps them out of the path, by version.
find_postgres() {
  local dir in_path
  in_path=$(command -v postgres) && in_path=$(dirname "$(readlink -f "$in_path")")
  while IFS= read -r dir; do
    if [[ -x $dir/postgres && -x $dir/initdb && -x $dir/pg_ctl ]]; then
      printf '%s\n' "$dir"
      return
    fi
  done < <(printf '%s\n' "$in_path"; printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV)
  return 1
}

# No password, and no waiting for the disk: the data does not outlive the run.
init_postgres() {
  mkdir "$servers_dir/postgres"
  if ((EUID == 0)); then chown "$(postgres_user)" "$servers_dir/postgres"; fi
  unprivileged initdb -D "$servers_dir/postgres/data" -U postgres -A trust -E UTF8 --locale=C \
    --no-sync >/dev/null
}

start_postgres() {
  # Its socket goes beside the data: the usual place for it may not be writable.
  unprivileged pg_ctl start -w -D "$servers_dir/postgres/data" -l "$servers_dir/postgres/log" \
    -o "-p $1 -c listen_addresses=127.0.0.1 -k $servers_dir/postgres -F" </dev/null >/dev/null 2>&1
}

# Without a word to anybody who is connected, and with the same options.
restart_postgres() {
  unprivileged pg_ctl restart -w -D "$servers_dir/postgres/data" -m immediate \
    -l "$servers_dir/postgres/log" </dev/null >/dev/null 2>&1
}

# start_pgbouncer PORT AUTHORITY SETTING...: starts the server in the background and waits until it is ready.
start_pgbouncer() {
  local dir=$servers_dir/pgbouncer user=${2%@*} host=${2##*@} password=
  if [[ $2 != *@* ]]; then user=postgres; fi
  if [[ $user == *:* ]]; then password="password='$(url_decoded "${user#*:}")'"; fi
  cat >"$dir/pgbouncer.ini" <<INI
[databases]
* = host=${host%:*} port=${host##*:} user='$(url_decoded "${user%%:*}")' $password
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $1
unix_socket_dir =
pidfile = $dir/pid
auth_type = any
ignore_startup_parameters = options,extra_float_digits
$(printf '%s\n' "${@:3}")
INI
  : >"$dir/log"
  if ((EUID == 0)); then chown -R "$(postgres_user)" "$dir"; fi
  unprivileged pgbouncer "$dir/pgbouncer.ini" </dev/null >"$dir/log" 2>&1 &
  pgbouncer_pid=$!
  until grep -q 'process up' "$dir/log"; do
    if ! kill -0 "$pgbouncer_pid" 2>/dev/null; then
      pgbouncer_pid=
      return 1
    fi
    sleep 0.05
  done
}

url_decoded() {
  printf '%b' "${1//%/\\x}"
}

# Runs a program of PostgreSQL, or PgBouncer. They refuse to run as root, so root steps down first. In a
# subshell, which may change its directory.
unprivileged() (
  local program=("$1" "${@:2}") user
  if [[ -x $postgres_bin/$1 ]]; then program[0]=$postgres_bin/$1; fi
  # The user may not be allowed to be in the current one.
  cd "$servers_dir" || return
  if ((EUID != 0)); then
    "${program[@]}"
  else
    user=$(postgres_user)
    setpriv --reuid="$(id -u "$user")" --regid="$(id -g "$user")" --clear-groups "${program[@]}"
  fi
)

postgres_user() {
  if id -u postgres >/dev/null 2>&1; then echo postgres; else echo nobody; fi
}

make_servers_dir() {
  if [[ -n $servers_dir ]]; then return; fi
  servers_dir=$(mktemp -d)
  # PostgreSQL's user has to pass through it to its own data.
  chmod 711 "$servers_dir"
}

# A few ports to try, below those that the system hands out for outgoing connections.
some_ports() {
  shuf -i 20000-32000 -n 5
}
