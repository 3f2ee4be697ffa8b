#!/usr/bin/env bash
# Installs what is missing into .venv, then hands over to `python -m mitmproxy_x402`. See ./run.sh --help.
#
#   X402_PYTHON   the Python to use instead of the newest of 3.10 to 3.14 that works
#   X402_VENV     the directory to install into instead of .venv (.venv-test for test and bench)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export X402_PROGRAM=${X402_PROGRAM:-$0}

say() { printf '%s: %s\n' "$X402_PROGRAM" "$*" >&2; }

TESTED="3.10 to 3.14"

# It has to be run: a version manager's shim can exist and print an error, and a distribution's Python can lack venv.
PROBE='
import sys
found = "%d.%d" % sys.version_info[:2]
if sys.implementation.name != "cpython" or sys.version_info < (3, 10):
    sys.exit("is %s %s" % (sys.implementation.name, found))
lacking = []
for module in ("ctypes", "ensurepip", "sqlite3", "ssl", "venv", "zlib"):
    try:
        __import__(module)
    except ImportError:
        lacking.append(module)
if lacking:
    sys.exit("is Python %s without %s" % (found, ", ".join(lacking)))
print("works " + found)
'

# python_version PYTHON: prints 3.10 or later, or fails.
python_version() {
  local answer
  answer=$("$1" -I -c "$PROBE" 2>/dev/null </dev/null) || return 1
  case $answer in "works "3.1[0-9]) printf '%s\n' "${answer#works }" ;; *) return 1 ;; esac
}

# python_candidates: one path a line, the newest tested version first, PATH first within a version; those never tested last.
python_candidates() {
  local minor place
  for minor in 14 13 12 11 10; do
    type -aP "python3.$minor" 2>/dev/null
    for place in \
      "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor."*/bin \
      "${XDG_DATA_HOME:-$HOME/.local/share}/uv/python/cpython-3.$minor"*/bin \
      "/opt/homebrew/opt/python@3.$minor/bin" "/usr/local/opt/python@3.$minor/bin" \
      "/Library/Frameworks/Python.framework/Versions/3.$minor/bin" \
      "$HOME/.local/bin" /usr/local/bin /opt/homebrew/bin /usr/bin; do
      [ -x "$place/python3.$minor" ] && printf '%s\n' "$place/python3.$minor"
    done
  done
  type -aP python3 python python3.15 python3.16 2>/dev/null
}

# find_python: prints the Python to install with, or says what is missing and fails.
find_python() {
  local candidate version
  if [ -n "${X402_PYTHON:-}" ]; then
    if python_version "$X402_PYTHON" >/dev/null; then
      printf '%s\n' "$X402_PYTHON"
      return 0
    fi
    say "X402_PYTHON=$X402_PYTHON does not work: a Python 3.10 or later with venv, ensurepip, ssl and sqlite3 is needed"
    say_why_not "$X402_PYTHON"
    return 1
  fi
  while IFS= read -r candidate; do
    case $candidate in
      # A plain python3 comes last, and is taken whatever its version, if that is one of ours.
      */python3.1[0-9]) version=$(python_version "$candidate") && [ "3.${candidate##*/python3.}" = "$version" ] || continue ;;
      *) python_version "$candidate" >/dev/null || continue ;;
    esac
    printf '%s\n' "$candidate"
    return 0
  done <<LIST
$(python_candidates)
LIST
  say "no working Python 3.10 or later was found (with venv, ensurepip, ssl and sqlite3):"
  while IFS= read -r candidate; do
    [ -z "$candidate" ] || say_why_not "$candidate"
  done <<LIST
$(python_candidates)
LIST
  say "install one (Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install python3; macOS: brew install python;"
  say "anywhere: uv python install), or set X402_PYTHON to the path of one"
  return 1
}

# say_why_not PYTHON: prints what is wrong with it.
say_why_not() {
  local answer
  if ! command -v -- "$1" >/dev/null 2>&1 || [ -d "$1" ]; then
    say "  $1 is no program"
    return
  fi
  answer=$("$1" -I -c "$PROBE" 2>&1 >/dev/null </dev/null | tail -n 1)
  say "  $1 ${answer:-does not run}"
}

# is_ready VENV LOCK: whether VENV was installed from exactly this LOCK, with the Python asked for.
is_ready() {
  [ -x "$1/bin/python" ] && cmp -s "$2" "$1/x402-installed.lock" &&
    { [ -z "${X402_PYTHON:-}" ] || [ "$X402_PYTHON" = "$(cat "$1/x402-python" 2>/dev/null)" ]; }
}

# link_package VENV: makes the package importable. The path is relative, so that the checkout can be moved, and comes last on
# sys.path, because addon/x402.py would otherwise hide the reference package x402 from the tests.
link_package() {
  "$1/bin/python" -I - "$here/addon" <<'PYTHON'
import os, sys, sysconfig
site = sysconfig.get_path("purelib")
with open(os.path.join(site, "mitmproxy_x402.pth"), "w", encoding="utf8") as pth:
    pth.write(os.path.relpath(sys.argv[1], site) + "\n")
PYTHON
}

# make_venv VENV LOCK: makes VENV from nothing. The copy of LOCK is written last; without it the next start begins again.
make_venv() {
  local venv=$1 lock=$2 python log=$1/x402-install.log
  if [ -e "$venv" ] && [ ! -e "$venv/x402-python" ]; then
    say "$venv exists and was not created by run.sh; remove it, or set X402_VENV to another directory"
    return 1
  fi
  python=$(find_python) || return 1
  say "installing into $venv with $python; this happens once and takes about a minute"
  case $(python_version "$python") in
    3.1[0-4]) ;;
    *) say "this Python is newer than those tested ($TESTED); if it fails, set X402_PYTHON to one of those" ;;
  esac
  rm -rf "$venv" && mkdir -p "$venv" && printf '%s\n' "${X402_PYTHON:-$python}" >"$venv/x402-python" || return 1
  if ! {
    "$python" -I -m venv "$venv" &&
      "$venv/bin/python" -I -m pip install --disable-pip-version-check --no-input --no-deps --prefer-binary \
        --require-hashes -r "$lock" &&
      link_package "$venv" && holds_what_runs "$venv" "$lock"
  } >"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    say "the installation failed; its whole output is in $log"
    return 1
  fi
  cp "$lock" "$venv/x402-installed.lock.new" && mv "$venv/x402-installed.lock.new" "$venv/x402-installed.lock"
}

# holds_what_runs VENV LOCK: whether the packages that LOCK is for can be imported. pip also succeeds with a lock that has no
# line for this Python.
holds_what_runs() {
  grep -q '^mitmproxy==' "$2" || return 0
  "$1/bin/python" -I -c '
from mitmproxy_x402.machine.installation import missing
found = missing()
if found:
    raise SystemExit("the lock file has no line for this Python for: " + ", ".join(found))
'
}

# ensure_venv VENV LOCK: one installation at a time; a second run waits for the first.
ensure_venv() {
  local venv=$1 lock=$2 busy=$1.busy told=
  is_ready "$venv" "$lock" && return 0
  until mkdir "$busy" 2>/dev/null; do
    if [ ! -w "$(dirname "$busy")" ]; then
      say "cannot write to $(dirname "$busy")"
      return 1
    fi
    if ! kill -0 "$(cat "$busy/pid" 2>/dev/null || echo 0)" 2>/dev/null; then
      rm -rf "$busy"
      continue
    fi
    [ -n "$told" ] || say "another installation into $venv is running; waiting for it (if there is none, remove $busy)"
    told=1
    sleep 1
  done
  printf '%s\n' $$ >"$busy/pid"
  trap 'rm -rf "$busy"; exit 130' INT
  trap 'rm -rf "$busy"; exit 143' TERM HUP
  local code=0
  is_ready "$venv" "$lock" || make_venv "$venv" "$lock" || code=1
  rm -rf "$busy"
  trap - INT TERM HUP
  return $code
}

# lock [UV ARGUMENT...]: writes both lock files; for maintainers, see docs/development.md.
lock() {
  cd "$here" || return 1
  set -- --universal --python-version 3.10 --generate-hashes --no-annotate --no-header --quiet "$@"
  "${UV:-uv}" pip compile pyproject.toml --group pyproject.toml:test -o requirements-test.lock "$@" &&
    # What runs is what was tested.
    "${UV:-uv}" pip compile pyproject.toml --extra postgres -c requirements-test.lock -o requirements.lock "$@"
}

has_browser() {
  local name
  for name in "${X402_BROWSER:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 && return 0
  done
  return 1
}

has_postgres() {
  command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

# ensure_debian WHAT PACKAGE: what some tests need besides Python. Installed where run.sh is root, as in CI; elsewhere the
# tests that need it fail, and say what to install.
ensure_debian() {
  "has_$1" && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing $2 for the tests"
    apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null </dev/null
  fi
  "has_$1" || say "some tests need $2 and fail without it (Debian: apt-get install $2)"
}

# without_install ARGUMENT...: whether the standard library is enough for this command.
without_install() {
  local argument
  case ${1:-} in path | help | --version) return 0 ;; esac
  for argument in "$@"; do
    case $argument in -h | --help) return 0 ;; --) break ;; esac
  done
  return 1
}

main() {
  local python venv=${X402_VENV:-$here/.venv} lock=$here/requirements.lock
  case ${1:-} in
    lock)
      shift
      lock "$@"
      return
      ;;
    test | bench)
      venv=${X402_VENV:-$here/.venv-test}
      lock=$here/requirements-test.lock
      if [ "$1" = test ] && ! without_install "$@"; then
        ensure_debian browser chromium
        ensure_debian postgres postgresql
      fi
      ;;
  esac
  if without_install "$@"; then
    python=$(find_python) || return 1
    exec "$python" -I -c 'import sys; sys.path.append(sys.argv.pop(1)); from mitmproxy_x402.cli.main import main; sys.exit(main())' \
      "$here/addon" "$@"
  fi
  ensure_venv "$venv" "$lock" || return 1
  exec "$venv/bin/python" -I -m mitmproxy_x402 "$@"
}

# Sourced, it only defines the functions: the tests try them one by one.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  main "$@"
fi
