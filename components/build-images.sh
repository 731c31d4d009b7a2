#!/usr/bin/env bash
# Builds images of this checkout and prints each one's name and digest: `make images`.
# docs/images.md explains the variables.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=${TARGETS:-cpu}
tool=${IMAGE_TOOL:-auto}
registry=${REGISTRY:-}
# The version in the table [project]: other tables have versions of their own.
version=${VERSION:-$(sed -n '/^\[project\]$/,/^\[/s/^version = "\(.*\)"$/\1/p' pyproject.toml)}
base=${BASE:-$(sed -n 's/^ARG BASE=//p' components/Dockerfile)}
# Words for the tool's own command line, before `build` and after it.
read -ra tool_flags <<<"${IMAGE_TOOL_FLAGS:-}"
read -ra build_flags <<<"${IMAGE_BUILD_FLAGS:-}"

fail() {
  echo "images: $1" >&2
  exit 1
}

works() {
  command -v "$1" >/dev/null && "$@" info >/dev/null 2>&1
}

# What a tag may be, so that not the tool says after a while that it is none.
[[ $version =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || fail "VERSION: '$version' is no tag. Give one of letters, digits, '.', '_' and '-': make images VERSION=0.1.0"

for target in $targets; do
  case $target in
    cpu | gpu | tensorrt | tpu) ;;
    *) fail "TARGETS: there is no target '$target'. There are cpu, gpu, tensorrt and tpu." ;;
  esac
done

case $tool in
  auto)
    for tool in docker podman buildah none; do
      works "$tool" && break
    done
    [[ $tool != none ]] || fail "neither docker, podman nor buildah works here. Install one (Debian: apt install podman) or start docker's daemon, or name one: make images IMAGE_TOOL=podman"
    ;;
  docker | podman | buildah)
    command -v "$tool" >/dev/null || fail "$tool is not on the PATH. Install it, or name another: make images IMAGE_TOOL=docker, podman or buildah"
    ;;
  *) fail "IMAGE_TOOL: there is no tool '$tool'. There are auto, docker, podman and buildah." ;;
esac

revision=$(git rev-parse HEAD 2>/dev/null) || revision=unknown
if [[ $revision != unknown && -n $(git status --porcelain) ]]; then
  revision=$revision-modified
fi
# All four every time: podman of Debian 12 takes one that is missing from an earlier build.
labels=(
  --label "org.opencontainers.image.version=$version"
  --label "org.opencontainers.image.revision=$revision"
  --label "org.opencontainers.image.source=${SOURCE:-}"
  --label "org.opencontainers.image.base.name=$base"
)

# buildah has its own words for what the other two can do.
case $tool in
  buildah) digest=(inspect --type image --format '{{.FromImageDigest}}') ;;
  podman) digest=(image inspect --format '{{.Digest}}') ;;
  docker) digest=(image inspect --format '{{.Id}}') ;;
esac

# The list of contents, as the image holds it.
copy_sbom() {
  local container
  if [[ $tool == buildah ]]; then
    container=$("$tool" "${tool_flags[@]}" from "$1")
    cp "$("$tool" "${tool_flags[@]}" mount "$container")/usr/share/paring/sbom.json" "$2"
  else
    container=$("$tool" "${tool_flags[@]}" create "$1")
    "$tool" "${tool_flags[@]}" cp "$container:/usr/share/paring/sbom.json" "$2"
  fi
  "$tool" "${tool_flags[@]}" rm "$container" >/dev/null
}

mkdir -p out/images
for target in $targets; do
  image=${registry:+$registry/}paring-$target:$version
  echo "images: building $image with $tool" >&2
  DOCKER_BUILDKIT=1 "$tool" "${tool_flags[@]}" build --file components/Dockerfile \
    --target "$target" --tag "$image" "${labels[@]}" --build-arg "LABELS=${labels[*]}" \
    --build-arg "BASE=$base" "${build_flags[@]}" . >&2
  copy_sbom "$image" "out/images/$target.sbom.json"
  echo "$image $("$tool" "${tool_flags[@]}" "${digest[@]}" "$image")"
done
