"""containerd's role on the daemon's side: start, find again and talk to shims.

The same Protocol over runc-like binaries and over a real containerd."""
