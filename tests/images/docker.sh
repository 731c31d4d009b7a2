#!/bin/bash
# Takes the place of docker: checks the tag as docker does, and builds nothing.
reference='^([a-z0-9.-]+(:[0-9]+)?/)?[a-z0-9._/-]+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$'
echo "$*" >> "$(dirname "$0")/calls"
case $1 in
  build)
    while [[ $1 != --tag ]]; do shift; done
    [[ $2 =~ $reference ]] || { echo "invalid reference format" >&2; exit 1; }
    ;;
  image) echo sha256:0 ;;
  create) echo container ;;
  cp) echo '{}' > "$3" ;;
esac
