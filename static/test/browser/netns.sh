#!/bin/sh
# Runs a command in a network of its own, where there is one address (10.9.9.1) and nobody else: what
# other interfaces and networks the machine has cannot change a test. Where that is not permitted (it
# takes root, or user namespaces, and ip) the command runs in the machine's own network.
network='sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 || true
ip link set lo up
ip link add v0 type veth peer name v1
ip addr add 10.9.9.1/24 dev v0
ip link set v0 up
ip link set v1 up
ip route add default via 10.9.9.254 dev v0'
for flags in -n -rn; do
  if unshare $flags sh -ec "$network" 2>/dev/null; then
    exec unshare $flags sh -ec "{ $network
    } 2>/dev/null; exec \"\$@\"" sh "$@"
  fi
done
echo 'No network of its own (unshare -n, ip): the browser tests run in that of this machine.' >&2
exec "$@"
