#!/usr/bin/env bash
# Installs Synapse, the other homeserver that test/synapse talks to, into .services/synapse-<version> of this checkout.
#
#   scripts/services/install-synapse.sh        prints the folder of the virtual environment on its last line
#
# Versions come from synapse-requirements.txt beside this file. Only wheels are installed, so no compiler and no Rust are
# needed. Running it again does nothing while the pins are the same. Another interpreter: PYTHON=python3.12 install-…
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
requirements="$here/synapse-requirements.txt"
python="${PYTHON:-python3}"

fail() {
  echo "install-synapse: $*" >&2
  exit 1
}

version="$(sed -n 's/^matrix-synapse==//p' "$requirements")"
[ -n "$version" ] || fail "no matrix-synapse== line in $requirements"
environment="$root/.services/synapse-$version"
# Written last, so an interrupted installation is never taken for a whole one.
receipt="$environment/installed-requirements.txt"

if cmp -s "$requirements" "$receipt" && "$environment/bin/python" -c 'import synapse.app.homeserver' 2>/dev/null; then
  echo "$environment"
  exit 0
fi

command -v "$python" >/dev/null || fail "no $python here. On Debian: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  fail "Synapse $version needs Python 3.10 or newer; $python is $("$python" --version 2>&1)"
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
  fail "$python cannot make virtual environments. On Debian: apt-get install python3-venv (or scripts/services/apt.sh as root)"

echo "install-synapse: Synapse $version with $("$python" --version 2>&1)" >&2
rm -rf "$environment"
mkdir -p "$root/.services"
"$python" -m venv "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary=:all: \
  --requirement "$requirements" >&2 ||
  fail "pip could not install the pins of $requirements with $("$python" --version 2>&1): see its message above"

installed="$("$environment/bin/python" -c 'import synapse.app.homeserver, importlib.metadata as m; print(m.version("matrix-synapse"))')" ||
  fail "Synapse was installed but cannot be imported"
[ "$installed" = "$version" ] || fail "asked for Synapse $version, got $installed"
cp "$requirements" "$receipt"
echo "$environment"
