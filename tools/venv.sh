#!/bin/sh
# Makes .venv with $PYTHON and installs the packages that constraints.txt pins.
# A stamp records what has been installed, so that a second call does nothing; it is written last,
# so that an install that was cut off is taken up again.
set -eu
cd "$(dirname "$0")/.."
venv=.venv
stamp=$venv/installed
log=venv.log
python=${PYTHON:-python3}

fail() {
    echo "error: $*" >&2
    exit 2
}

# Prints the version of a Python, fails when it does not run or is not 3.11 to 3.13.
version_of() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3]); sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null
}

# $1: what went wrong. Says whether the disk is full, else where to read more.
install_failed() {
    if grep -qs 'No space left on device' "$log" || [ "$(free_mb)" -lt 100 ]; then
        fail "$1: the disk is full ($(free_mb) MB free here; the packages need up to 7 GB, or 2 GB with a CPU-only torch)"
    fi
    reason=$(grep -i error "$log" | tail -n 1 | cut -c 1-200)
    fail "$1: ${reason:-$(tail -n 1 "$log")} (all of it: $log)"
}

free_mb() {
    df -Pm . | awk 'NR == 2 { print $4 }'
}

if [ ! -e "$venv" ]; then
    version=$(version_of "$python") ||
        fail "$python is ${version:-not there}, Python 3.11, 3.12 or 3.13 is needed: name one as in make book PYTHON=python3.12"
    echo "making $venv with Python $version"
    "$python" -m venv "$venv" >"$log" 2>&1 || { rm -rf "$venv"; install_failed "making $venv failed"; }
fi
version=$(version_of "$venv/bin/python") ||
    fail "the Python in $venv is ${version:-broken}, 3.11, 3.12 or 3.13 is needed: remove it (rm -r $venv) and call make again"

# The folder belongs to the key because the package is installed as a link to it.
key="$version $(cat pyproject.toml constraints.txt | cksum) $PWD"
[ "$key" != "$(cat "$stamp" 2>/dev/null)" ] || exit 0

echo "installing the packages (some minutes; progress in $log)"
rm -f "$stamp"
"$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
    -c constraints.txt -e '.[book,test]' >"$log" 2>&1 || install_failed "installing the packages failed"
echo "$key" >"$stamp.part"
mv "$stamp.part" "$stamp"
rm -f "$log"
