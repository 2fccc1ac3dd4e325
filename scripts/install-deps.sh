#!/usr/bin/env bash
# Installs the Debian packages Sidecore is built, shown and tested with. Quick and silent when all are there.
#
#   scripts/install-deps.sh [build] [demo] [test] [page] [bench-instr] [bench-peers]      default: build
#
# Each of the others includes "build", and "test" includes "bench-instr" and "page" as far as they can be had. Needs apt (Debian 12 or a relative),
# and root or sudo when something is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")

# A compiler for the generated shims and for linking, DPDK's headers and drivers, libclang for bindgen, and libpcap, which compiles filters of captures.
build_packages=(build-essential pkg-config libdpdk-dev libclang-dev clang libpcap-dev)

# QEMU guests (iperf3, busybox and the kernel below make their image), and the namespaces around them.
demo_packages=(qemu-system-x86 iperf3 iproute2 ethtool)

is_installed() {
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Of the two busybox packages, which exclude each other, whichever is there already.
is_installed busybox || demo_packages+=(busybox-static)

# dpdk-testpmd, the second real driver, is in dpdk-dev; strace watches the I/O cores; tcpdump reads what was captured. promtool comes with prometheus, and both judge the rules
# and dashboards, which a Python program writes.
test_packages=(dpdk-dev strace tcpdump prometheus python3 python3-venv)

# Grafana's own types, from PyPI, against which the dashboards are checked.
grafana_sdk='grafana-foundation-sdk==1769699998!10.1.0'
grafana_sdk_dir=$top/target/grafana-sdk

# The browser that looks at the switch's page.
page_packages=(chromium chromium-driver)

# callgrind, which counts instructions.
instr_packages=(valgrind)

# What Sidecore is compared with: OVS with DPDK, and dpdk-testpmd.
peers_packages=(openvswitch-switch-dpdk dpdk-dev)

say() { printf 'install-deps: %s\n' "$*"; }
fail() {
    printf 'install-deps: error: %s\n' "$*" >&2
    exit 1
}

wanted=()
optional=()
kernel=no
sdk=no
for group in "${@:-build}"; do
    case $group in
        build) wanted+=("${build_packages[@]}") ;;
        demo) wanted+=("${build_packages[@]}" "${demo_packages[@]}") kernel=yes ;;
        test)
            wanted+=("${build_packages[@]}" "${demo_packages[@]}" "${test_packages[@]}")
            optional+=("${instr_packages[@]}" "${page_packages[@]}")
            kernel=yes sdk=yes
            ;;
        page) wanted+=("${build_packages[@]}" "${page_packages[@]}" pngquant) ;;
        bench-instr) wanted+=("${build_packages[@]}" "${instr_packages[@]}") ;;
        bench-peers) wanted+=("${build_packages[@]}" "${peers_packages[@]}") ;;
        *) fail "unknown group '$group': use build, demo, test, page, bench-instr or bench-peers" ;;
    esac
done

# Runs a command as root, or says what to run by hand.
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "neither root nor sudo here. As root, run: apt-get install ${missing[*]}"
    fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

updated=no
update_lists() {
    [[ $updated == no ]] || return 0
    say "updating apt's package lists"
    apt_get update >/dev/null || fail "'apt-get update' failed: is there a network connection?"
    updated=yes
}

# apt's lists may be absent (a container) or name versions the mirror has dropped: then fetch them and try once more.
install_packages() {
    say "installing: $*"
    if ! apt_get install -y --no-install-recommends "$@"; then
        update_lists
        apt_get install -y --no-install-recommends "$@" || fail "apt-get could not install: $*"
    fi
}

# Tests and comparisons start programs of their own when they need them. The services that come with the packages would only take memory and
# CPU time: they are stopped and disabled, unless the package was on this machine before.
quiet_service() {
    local package=$1
    shift
    local units=("$@")
    say "disabling the service of the newly installed $package, whose programs alone are needed"
    if [[ -d /run/systemd/system ]]; then
        as_root systemctl --quiet stop "${units[@]}" || fail "the service of $package does not stop"
    else
        # Where policy forbids to start services, there is nothing to be stopped, and that is refused as well.
        as_root invoke-rc.d --quiet "$package" stop || true
    fi
    ! command -v systemctl >/dev/null || as_root systemctl --quiet disable "${units[@]}" 2>/dev/null ||
        fail "the service of $package cannot be disabled"
}

fetch_grafana_sdk() {
    say "fetching Grafana's types from PyPI"
    rm -rf "$grafana_sdk_dir"
    if ! /usr/bin/python3 -m venv "$grafana_sdk_dir" || ! "$grafana_sdk_dir/bin/pip" -q install "$grafana_sdk"; then
        rm -rf "$grafana_sdk_dir"
        # What needs it is skipped, and says so.
        say "going on without $grafana_sdk"
    fi
}

# The guests' kernel is unpacked, not installed: an installed cloud kernel would join this machine's boot menu, and it has
# no drivers for real hardware. One that is installed already is used as it is.
guest_kernel_dir=$top/target/guest/kernel
has_guest_kernel() {
    compgen -G "/boot/vmlinuz-*-cloud-amd64" >/dev/null || compgen -G "$guest_kernel_dir/boot/vmlinuz-*" >/dev/null
}

kernel_package() {
    apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ {print $2; exit}'
}

fetch_guest_kernel() {
    local package
    package=$(kernel_package)
    if [[ -z $package ]]; then
        update_lists
        package=$(kernel_package)
    fi
    [[ -n $package ]] || fail "apt knows no linux-image-cloud-amd64, the kernel the guests run"
    say "fetching the guests' kernel, $package"
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    if ! (cd "$download" && apt-get -q -o APT::Sandbox::User=root download "$package"); then
        update_lists
        package=$(kernel_package)
        (cd "$download" && apt-get -q -o APT::Sandbox::User=root download "$package") || fail "apt-get could not download $package"
    fi
    mkdir -p "$top/target/guest"
    rm -rf "$guest_kernel_dir" "$guest_kernel_dir.new"
    dpkg-deb -x "$download"/*.deb "$guest_kernel_dir.new"
    mv "$guest_kernel_dir.new" "$guest_kernel_dir"
}

command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    fail "this is not a Debian-like system. Install by hand what corresponds to: ${wanted[*]}"

missing=()
for package in "${wanted[@]}"; do
    is_installed "$package" || missing+=("$package")
done
had_ovs=yes
is_installed openvswitch-switch || had_ovs=no
had_prometheus=yes
is_installed prometheus || had_prometheus=no
[[ ${#missing[@]} -eq 0 ]] || install_packages "${missing[@]}"
for package in "${optional[@]}"; do
    # What needs it is skipped, and says so.
    is_installed "$package" || (missing=("$package") && install_packages "$package") || say "going on without $package"
done
[[ $had_ovs == yes ]] || ! is_installed openvswitch-switch ||
    quiet_service openvswitch-switch openvswitch-switch.service ovs-vswitchd.service ovsdb-server.service ovs-record-hostname.service
[[ $had_prometheus == yes ]] || ! is_installed prometheus || quiet_service prometheus prometheus.service
[[ $sdk == no ]] || [[ -x $grafana_sdk_dir/bin/python ]] || fetch_grafana_sdk
[[ $kernel == no ]] || has_guest_kernel || fetch_guest_kernel
