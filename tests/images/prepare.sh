#!/usr/bin/env bash
# Installs Debian's container tools, and makes the base image that the tests build on.
#
#     prepare.sh IMAGE FOLDER
#
# IMAGE is the base's name in podman's storage below FOLDER. Does nothing where all of it
# is there. Root only: it installs packages, and containers run as root here.
set -euo pipefail

image=$1
folder=$2
tools=(podman buildah runc mmdebstrap)

if [[ $(id -u) != 0 ]]; then
  echo "prepare.sh: only root can install ${tools[*]} and run containers here" >&2
  exit 1
fi

export DEBIAN_FRONTEND=noninteractive
if ! type -P "${tools[@]}" >/dev/null; then
  apt-get update -q
  apt-get install -q -y --no-install-recommends "${tools[@]}"
fi

podman=(podman --root "$folder/storage" --runroot "$folder/run")
if "${podman[@]}" image exists "$image"; then
  exit 0
fi

# In memory, since dpkg waits for the disk after each file: 40 s instead of two minutes.
base=$(mktemp --suffix=.tar)
trap 'rm -f "$base"' EXIT
unshare --mount bash -euc '
  mount -t tmpfs -o mode=755 base /mnt
  TMPDIR=/mnt mmdebstrap --variant=apt --include=python3,python3-venv,ca-certificates bookworm "$1"
' _ "$base"
"${podman[@]}" import "$base" "$image"
