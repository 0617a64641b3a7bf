#!/bin/sh
# Makes the secrets of the compose files, those that are missing only: none is ever replaced.
#
#   sh deploy/make-secrets.sh [FOLDER]     deploy/secrets unless told, or EXEUNT_SECRETS_DIRECTORY
#
# The folder is closed to others. The files in it are not: compose mounts each as it is, into containers that run as users of
# their own.
set -eu

folder="${1:-${EXEUNT_SECRETS_DIRECTORY:-$(dirname "$0")/secrets}}"
mkdir -p "$folder"
chmod 700 "$folder"

random() {
  head -c 32 /dev/urandom | base64 | tr -d '\n='
}

make() {
  [ ! -e "$folder/$1" ] || return 0
  printf '%s\n' "$2" >"$folder/$1.new"
  chmod 444 "$folder/$1.new"
  mv "$folder/$1.new" "$folder/$1"
  echo "made $folder/$1"
}

# The name of the key may never be used again for another one.
make signing_key "ed25519 a_$(head -c 4 /dev/urandom | od -An -tx1 | tr -d ' \n') $(random)"
make platform_token "$(random)"
make database_password "$(random)"
make grafana_password "$(random)"
