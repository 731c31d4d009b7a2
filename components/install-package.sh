# Installs our package into /opt/paring from the sources beside this script, lists what the
# image holds, and removes the sources: the last step of each target of the Dockerfile.
set -eu

export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_CACHE_DIR=/var/cache/uv \
  UV_LINK_MODE=copy PYC_INVALIDATION_MODE=UNCHECKED_HASH
source=/usr/share/paring/source

/opt/tools/bin/uv build --wheel --out-dir "$source/wheels" --require-build-hashes \
  --preview-features build-dependency-hashes \
  --build-constraint /usr/share/paring/build.txt "$source"
# Without the cache, which knows wheels by name and version, not by content.
/opt/tools/bin/uv pip install --python /opt/paring/bin/python --no-cache --no-index --no-deps \
  --compile-bytecode "$source"/wheels/*.whl
/opt/sbom/bin/cyclonedx-py environment --output-reproducible \
  --output-file /usr/share/paring/sbom.json /opt/paring/bin/python
rm -r "$source"
