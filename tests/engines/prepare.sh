#!/usr/bin/env bash
# Installs Flink and Spark, and builds Beam's job servers for them and its boot program.
#
#     prepare.sh FOLDER
#
# FOLDER gets a folder named for what was built, whose path is the last line printed. Where
# it is there already nothing is done: the first time takes five to ten minutes on two cores.
# Root only, as the namespaces are in which the tests run.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
root=$(dirname "$(dirname "$here")")
cache=$1
lock=$root/requirements/engines.txt

fail() {
  echo "prepare.sh: $1" >&2
  exit 1
}

[[ $(id -u) == 0 ]] || fail "only root can make network namespaces. Run make test-engines as root"
command -v go >/dev/null || fail "go is not on the PATH, and Beam's boot program is built with it. Install Go 1.26 or later; make test needs none"

# Only what is not there, from Debian or from elsewhere.
packages=()
type -P java >/dev/null || packages+=(openjdk-17-jre-headless)
type -P mvn >/dev/null || packages+=(maven)
type -P ip >/dev/null || packages+=(iproute2)
if [[ ${#packages[@]} != 0 ]]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >&2
  apt-get install -q -y --no-install-recommends "${packages[@]}" >&2
fi
version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
[[ $version == 17 ]] || fail "Flink 1.19 and Spark 3.5 run on Java 17. Received: Java $version. Put Java 17 first on the PATH"

export CGO_ENABLED=0 GOFLAGS='-mod=readonly -buildvcs=false'
key=$({
  go version
  cat "$lock" "$here"/job_servers/*/pom.xml "$here"/boot/go.{mod,sum} "$0"
} | sha256sum | cut -c 1-16)
built=$cache/engines-$key
mkdir -p "$cache"
exec 9>"$cache/engines.lock"
flock 9
if [[ ! -d $built ]]; then
  echo "prepare.sh: installing Flink and Spark, building Beam's job servers; this takes minutes" >&2
  partial=$(mktemp -d "$cache/partial-XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  for engine in flink spark; do
    cp -r "$here/job_servers/$engine" "$partial/$engine"
    mvn --quiet --batch-mode --strict-checksums --file "$partial/$engine/pom.xml" \
      -Dmaven.repo.local="$cache/maven" package >&2
    mv "$partial/$engine/target/$engine-job-server.jar" "$partial"
    rm -r "${partial:?}/$engine"
  done
  (cd "$here/boot" && go build -trimpath -ldflags '-s -w' -o "$partial/boot" github.com/apache/beam/sdks/v2/python/container)
  # As a target, without scripts that would name the folder of now.
  "$root/.venv/bin/uv" pip install --quiet --python "$root/.venv/bin/python" --target "$partial/python" \
    --require-hashes --build-constraint "$lock" --requirement "$lock" >&2
  mv "$partial" "$built"
fi
echo "$built"
