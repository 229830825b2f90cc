#!/usr/bin/env bash
# Installs the browser that tests/browser drive: Debian's chromium. Does nothing where one is there.
set -euo pipefail

for name in chromium chromium-browser google-chrome; do
    if command -v "$name" >/dev/null; then
        echo "browser tests use $(command -v "$name")"
        exit 0
    fi
done
if ! command -v apt-get >/dev/null; then
    echo "install chromium with this system's own tools: there is no apt-get to do it with" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "only root installs packages; run: sudo bash scripts/install_browser.sh" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Without a font of its own the browser draws boxes, and sizes them as it likes.
apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
echo "installed $(chromium --version)"
