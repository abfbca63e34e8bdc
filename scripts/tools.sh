# shellcheck shell=bash
# Finds the programs that the tests need, and installs them where that is allowed. To be sourced.

# Ends the script with one line that says what to do.
fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

need_rust() {
  command -v cargo >/dev/null || fail "cargo is missing: install Rust, https://rustup.rs"
  need_component rustfmt cargo fmt
  need_component clippy cargo clippy
}

# need_component NAME COMMAND...: asks the command for its version, because rustup puts a
# stand-in for every component into the path, installed or not.
need_component() {
  if "${@:2}" --version >/dev/null 2>&1; then return; fi
  command -v rustup >/dev/null || fail "$1 is missing: install it beside cargo"
  rustup component add "$1" >&2 || fail "$1 is missing: run \`rustup component add $1\`"
}

# For linking, and for the SQLite that is compiled in.
need_c_compiler() {
  if command -v "${CC:-cc}" >/dev/null; then return; fi
  apt_install build-essential || true
  command -v "${CC:-cc}" >/dev/null || fail "a C compiler is missing: install gcc or set CC"
}

# The browser of the tests of the admin page.
need_chromium() {
  if find_chromium; then return; fi
  apt_install chromium chromium-driver || true
  find_chromium || fail "Chromium is missing: install chromium and chromium-driver"
}

find_chromium() {
  command -v chromedriver >/dev/null || return 1
  local name
  for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then return; fi
  done
  return 1
}

# The pooler of the tests of notifications.
need_pgbouncer() {
  # Debian keeps it out of the path of everybody but root.
  PATH=$PATH:/usr/sbin
  if command -v pgbouncer >/dev/null; then return; fi
  apt_install pgbouncer || true
  command -v pgbouncer >/dev/null || fail "PgBouncer is missing: install pgbouncer"
}

# Installs packages; fails where there is no apt-get or no right to use it.
apt_install() {
  command -v apt-get >/dev/null || return 1
  ((EUID == 0)) || sudo -n true 2>/dev/null || return 1
  # Standard output is kept for the steps and the tests.
  (
    # What is installed for tests is started by them alone: Debian asks this whether it may.
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      trap 'as_root rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
      as_root chmod 755 "$policy"
    fi
    # A fresh machine may be updating itself.
    as_root apt-get update -q -o DPkg::Lock::Timeout=300 \
      && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
  ) </dev/null >&2
}

# Runs a command as root, without ever asking for a password.
as_root() {
  if ((EUID == 0)); then
    "$@"
  else
    sudo -n "$@"
  fi
}
