#!/usr/bin/env bash
# Installs what a cluster on this machine needs, and builds Kubernetes and etcd.
#
#     prepare.sh FOLDER
#
# FOLDER gets a folder named for what was built, whose path is the last line printed. Where
# it is there already nothing is compiled: the first time takes eight minutes on two cores.
# Root only: it installs packages, and a kubelet runs as root.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
cache=$1

fail() {
  echo "prepare.sh: $1" >&2
  exit 1
}

[[ $(id -u) == 0 ]] || fail "only root can start a kubelet and containers. Run make test-cluster as root"
command -v go >/dev/null || fail "go is not on the PATH, and Kubernetes is built with it. Install Go 1.26 or later; make test needs none"

# Only what is not there, from Debian or from elsewhere.
packages=()
type -P containerd >/dev/null || packages+=(containerd)
type -P runc >/dev/null || packages+=(runc)
type -P iptables >/dev/null || packages+=(iptables)
type -P ip >/dev/null || packages+=(iproute2)
type -P mkfs.ext4 >/dev/null || packages+=(e2fsprogs)
[[ -x /usr/lib/cni/bridge ]] || packages+=(containernetworking-plugins)
if [[ ${#packages[@]} != 0 ]]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >&2
  apt-get install -q -y --no-install-recommends "${packages[@]}" >&2
fi

export CGO_ENABLED=0 GOFLAGS='-mod=readonly -buildvcs=false'
version=$(cd "$here/kubernetes" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
flags=(-trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version")

key=$({
  go version
  echo "${flags[@]}"
  cd "$here"
  cat {kubernetes,etcd}/go.{mod,sum} kubernetes/main.go kubernetes/pause/main.go
} | sha256sum | cut -c 1-16)
built=$cache/$key
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [[ ! -d $built ]]; then
  echo "prepare.sh: building etcd and Kubernetes $version; this takes minutes" >&2
  partial=$(mktemp -d "$cache/partial-XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  (cd "$here/etcd" && go build "${flags[@]}" -o "$partial/etcd" go.etcd.io/etcd/server/v3)
  (cd "$here/kubernetes" && go build "${flags[@]}" -o "$partial/pause" ./pause)
  (cd "$here/kubernetes" && go build "${flags[@]}" -o "$partial/kubernetes" .)
  mv "$partial" "$built"
fi
echo "$built"
