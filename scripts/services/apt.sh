#!/usr/bin/env bash
# Installs the Debian packages that the tests with real services need, those that are missing only.
# Quick and without network when all are there. Needs root otherwise, and says what to install when it is not.
set -euo pipefail

# postgresql: contract tests and outages on a real database. python3-venv: Synapse in its own virtual environment.
# nginx: the proxy of docker-compose.yml.
packages=(postgresql python3 python3-venv nginx ca-certificates)
# Java and Maven: Kafka, by install-kafka.sh. Any will do, wherever they come from.
command -v java >/dev/null || packages+=(default-jre-headless)
command -v mvn >/dev/null || packages+=(maven)

command -v dpkg-query >/dev/null || {
  echo "apt.sh: not a Debian system. Install these by hand: PostgreSQL 15 or newer (server), Python 3.10 or newer with venv, nginx, Java 17 or newer, Maven" >&2
  exit 1
}

missing=()
for package in "${packages[@]}"; do
  status="$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)"
  [ "$status" = installed ] || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "apt.sh: missing: ${missing[*]}. As root: apt-get update && apt-get install ${missing[*]}" >&2
  exit 1
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends "${missing[@]}"
