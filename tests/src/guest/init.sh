#!/bin/busybox sh
# The guest's first and only service: it makes a small system around itself, then answers commands on the second serial port.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ LANG=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm

while read -r module; do
    insmod "/modules/$module"
done </modules/order

hostname guest
ip link set lo up
# Addresses are given by the test and usable at once: no duplicate address detection, no router advertisements.
for scope in all default; do
    echo 0 >/proc/sys/net/ipv6/conf/$scope/accept_dad
    echo 0 >/proc/sys/net/ipv6/conf/$scope/accept_ra
    echo 0 >/proc/sys/net/ipv6/conf/$scope/router_solicitations
done

# Whoever sends a stream to this port gets its SHA-256 back on the same connection.
nc -ll -p DIGEST_PORT -e /bin/busybox sha256sum >/dev/null 2>&1 &
while true; do
    iperf3 -s >/dev/null 2>&1
done &

# Request: "ID SECONDS LENGTH\n" and a script of LENGTH bytes. Answer: "ID STATUS LENGTH\n" and its output.
# The line is raw in both directions, so that nothing is echoed, cut at a line length, or translated.
exec </dev/ttyS1 >/dev/ttyS1 2>/dev/null
stty raw -echo 115200
echo ready
while read -r id seconds length; do
    dd bs=1 count="$length" of=/tmp/.script 2>/dev/null
    timeout -s KILL "$seconds" sh /tmp/.script >/tmp/.output 2>&1 </dev/null
    status=$?
    echo "$id $status $(stat -c %s /tmp/.output)"
    cat /tmp/.output
done
poweroff -f
