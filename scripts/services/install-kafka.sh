#!/usr/bin/env bash
# Installs Apache Kafka, the broker that the tests of the Kafka bus run against, into .services/kafka-<version>/libs of
# this checkout: plain jars, fetched by Maven.
#
#   scripts/services/install-kafka.sh        prints the folder on its last line
#
# The version comes from kafka-pom.xml beside this file. Running it again does nothing while that file is the same.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
pom="$here/kafka-pom.xml"

fail() {
  echo "install-kafka: $*" >&2
  exit 1
}

version="$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$pom")"
[ -n "$version" ] || fail "no <kafka.version> in $pom"
folder="$root/.services/kafka-$version"
# Written last, so an interrupted installation is never taken for a whole one.
receipt="$folder/installed-pom.xml"

if cmp -s "$pom" "$receipt" && [ -f "$folder/libs/kafka_2.13-$version.jar" ]; then
  echo "$folder"
  exit 0
fi

java="${JAVA_HOME:+$JAVA_HOME/bin/}java"
command -v "$java" >/dev/null ||
  fail "no Java here. Kafka $version needs Java 17 or newer; on Debian: apt-get install openjdk-17-jre-headless"
major="$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -1)"
[ "${major:-0}" -ge 17 ] || fail "Kafka $version needs Java 17 or newer; $java is Java ${major:-?}"
command -v mvn >/dev/null || fail "no Maven (mvn) here. On Debian: apt-get install maven (or scripts/services/apt.sh as root)"

echo "install-kafka: Kafka $version by Maven" >&2
rm -rf "$folder"
mkdir -p "$folder/libs"
# The copy's own folder is where Maven would put its target.
cp "$pom" "$folder/pom.xml"
mvn --batch-mode --quiet -Dstyle.color=never --file "$folder/pom.xml" dependency:copy-dependencies \
  -DincludeScope=runtime -DoutputDirectory="$folder/libs" >&2 ||
  fail "Maven could not fetch Kafka $version: see its message above"

[ -f "$folder/libs/kafka_2.13-$version.jar" ] || fail "Maven gave no kafka_2.13-$version.jar"
mv "$folder/pom.xml" "$receipt"
echo "$folder"
