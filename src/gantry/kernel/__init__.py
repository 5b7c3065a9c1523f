"""The one façade over libc, /proc, netlink: policy-free, `OSError` with the call and the path.

Standard library only: it is loaded in the launcher."""
