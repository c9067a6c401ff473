#!/usr/bin/env bash
# Install the system packages the project uses, where a package manager can be used without asking.
set -euo pipefail

packages=(libopenblas0-pthread g++ chromium)

case "$(uname -s)" in
Darwin) exit 0 ;; # Accelerate and clang are part of the system
esac

# Any Chromium will do, and what is already on a CI machine is there at once.
browser() { command -v chromium chromium-browser google-chrome google-chrome-stable >/dev/null; }

missing=()
for package in "${packages[@]}"; do
    if [ "$package" = chromium ] && browser; then continue; fi
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "Please install: ${missing[*]} (no apt-get here). Without OpenBLAS the native path is about 30 times slower." >&2
    exit 0
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
echo "Installing ${missing[*]} …" >&2
if ! { "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }; then
    echo "Could not install ${missing[*]}: run 'sudo apt-get install ${missing[*]}' and call make again." >&2
    exit 1
fi
