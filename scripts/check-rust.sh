#!/usr/bin/env bash
# Fails with a clear message when the installed Rust is older than the workspace's rust-version (Cargo.toml).
# With "lint", rustfmt and clippy must be there too; rustup is asked for them when they are not.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
needed=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$top/Cargo.toml")

if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    echo "error: Rust is not installed. Sidecore needs Rust $needed or newer: https://rustup.rs" >&2
    exit 1
fi
found=$(rustc --version | awk '{print $2}')
oldest=$(printf '%s\n%s\n' "$needed" "${found%%-*}" | sort -V | head -n 1)
if [[ $oldest != "$needed" ]]; then
    echo "error: Rust $found is too old, Sidecore needs $needed or newer. Run: rustup update stable" >&2
    exit 1
fi

if [[ ${1:-} == lint ]] && ! { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1; then
    command -v rustup >/dev/null && rustup component add rustfmt clippy || {
        echo "error: rustfmt or clippy is missing. Run: rustup component add rustfmt clippy" >&2
        exit 1
    }
fi
