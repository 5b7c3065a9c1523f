#!/bin/bash
# Install the Debian packages that a purpose needs: packages.sh test|demo|bench|cgroup2
# As root with apt-get only; otherwise what is missing is said in one line.
set -euo pipefail
common="busybox-static iproute2 nftables"
# What a purpose cannot do without, and peers whose tests are skipped where they are not.
welcome=
case ${1:-test} in
  demo) wanted=$common ;;
  test)
    wanted="$common docker.io iptables runc util-linux procps openssl"
    welcome="crun skopeo strace podman docker-registry criu fuse-overlayfs dmsetup"
    welcome="$welcome btrfs-progs xfsprogs apparmor"
    ;;
  bench) wanted="$common docker.io iptables runc iperf3 docker-registry" ;;
  cgroup2)
    wanted="$common docker.io iptables user-mode-linux dmsetup kmod"
    welcome="systemd"
    ;;
  *) echo "packages: unknown purpose: $1" >&2; exit 2 ;;
esac
# What counts is the program: it may have come from elsewhere than a package.
program() {
  case $1 in
    apparmor) command -v apparmor_parser ;;
    btrfs-progs) command -v mkfs.btrfs ;;
    xfsprogs) command -v mkfs.xfs ;;
    busybox-static) [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 ;;
    docker.io) command -v dockerd && command -v docker ;;
    iproute2) command -v ip ;;
    nftables) command -v nft ;;
    kmod) command -v modprobe ;;
    user-mode-linux) command -v linux.uml ;;
    util-linux) command -v nsenter && command -v setsid ;;
    procps) command -v ps ;;
    systemd) [ -x /lib/systemd/systemd ] ;;
    *) command -v "$1" ;;
  esac >/dev/null 2>&1
}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
absent() {
  local package
  for package in "$@"; do program "$package" || echo "$package"; done | xargs
}
missing=$(absent $wanted)
peers=$(absent $welcome)
[ -z "$missing$peers" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  [ -z "$peers" ] || echo "packages: not here, their tests are skipped: $peers" >&2
  [ -z "$missing" ] && exit 0
  echo "packages: missing: $missing (not root or no apt-get, so they can't be installed)" >&2
  exit 1
fi
# Installing docker.io would start an engine; what we need are its programs.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
quiet="-qq -o=Dpkg::Use-Pty=0"
updated=
install() {
  apt-get install $quiet -y --no-install-recommends "$@" >/dev/null 2>&1 && return
  [ -z "$updated" ] || return 1
  updated=yes
  apt-get update $quiet >/dev/null 2>&1
  apt-get install $quiet -y --no-install-recommends "$@" >/dev/null 2>&1
}
if [ -n "$missing" ]; then
  install $missing || { echo "packages: apt-get could not install: $missing" >&2; exit 1; }
fi
for peer in $peers; do
  install "$peer" || echo "packages: apt-get has no $peer: its tests are skipped" >&2
done
