"""What `make demo` shows: an engine in scratch roots, an image, a container, a published port.

Nothing of this machine is touched that is not undone at the end: the engine listens on a socket
of its own, keeps its data in a temporary folder, and all of it runs in a network namespace of its
own, so that no bridge and no firewall rule stays, and no other engine's is met.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
BUSYBOX = Path("/bin/busybox")
PAGE = "hello from a container on gantry\n"
PATIENCE = 30.0
INSIDE = "--inside"
"""Says that this process is in its own network namespace already."""


class DemoError(Exception):
    """One clear line about what went wrong."""


def say(text: str) -> None:
    """Print a step."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def rootfs() -> bytes:
    """Return a root file system made of Debian's busybox-static."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, mode: int, data: bytes | None = None, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.mode = mode
            info.type = tarfile.SYMTYPE if link else tarfile.REGTYPE
            info.linkname = link
            if data is None and not link:
                info.type = tarfile.DIRTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))

        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var", "www"):
            add(name, 0o1777 if name == "tmp" else 0o755)
        add("bin/busybox", 0o755, BUSYBOX.read_bytes())
        listing = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
        for applet in listing.stdout.split():
            if applet != "busybox":
                add(f"bin/{applet}", 0o777, link="busybox")
        add("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")
        add("etc/group", 0o644, b"root:x:0:\n")
        add("www/index.html", 0o644, PAGE.encode())
    return out.getvalue()


class Demo:
    """One engine in a scratch folder, and its client."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "gantry.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start gantryd and wait until it answers."""
        argv = [
            str(BIN / "gantryd"),
            *("-H", f"unix://{self.socket}"),
            *("--data-root", str(self.root / "data")),
            *("--exec-root", str(self.root / "exec")),
            *("-p", str(self.root / "gantryd.pid")),
        ]
        print("$", " ".join(argv))
        with (self.root / "log").open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                lines = (self.root / "log").read_text().splitlines()
                raise DemoError(f"gantryd did not start: {lines[-1] if lines else 'no word'}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(self.socket))
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(4096)
        except OSError:
            return False

    def run(self, *words: str, stdin: bytes = b"") -> str:
        """Run the docker client if there is one, ours otherwise; show it and its output."""
        client = shutil.which("docker") or str(BIN / "gantry")
        print("$", Path(client).name, *words)
        done = subprocess.run(
            [client, "-H", f"unix://{self.socket}", *words],
            check=False,
            input=stdin,
            capture_output=True,
        )
        print(done.stdout.decode(), end="")
        if done.returncode:
            raise DemoError(done.stderr.decode().strip() or f"exit code {done.returncode}")
        return done.stdout.decode().strip()

    def stop(self) -> None:
        """Remove the containers and stop the engine."""
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(DemoError):
            names = self.run("ps", "-aq").split()
            if names:
                self.run("rm", "-f", *names)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()


def fetch(port: int) -> str:
    """Fetch the page through the published port of this machine."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            if answer:
                return answer.partition(b"\r\n\r\n")[2].decode()
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise DemoError(f"no page at port {port}")
        time.sleep(0.05)


def show(demo: Demo) -> None:
    """Do it all."""
    say("An engine, in scratch roots")
    demo.start()
    demo.run("version", "--format", "{{.Server.Version}}, API {{.Server.APIVersion}}")
    say("An image, from Debian's busybox-static")
    demo.run("import", "-c", 'CMD ["sh"]', "-", "busybox", stdin=rootfs())
    demo.run("images")
    say("A container, and its output")
    words = ("run", "--rm", "--hostname", "demo", "-m", "64m", "busybox")
    program = "echo I am $(hostname), process $$ of $(ls /proc | grep -c '^[0-9]')"
    began = time.monotonic()
    demo.run(*words, "sh", "-c", program)
    print(f"({(time.monotonic() - began) * 1000:.0f} ms, the client's start included)")
    say("A published port, and a page fetched through it")
    name = demo.run("run", "-d", "-p", "127.0.0.1::80", "busybox", "httpd", "-f", "-h", "/www")
    port = int(demo.run("port", name, "80/tcp").splitlines()[0].rpartition(":")[2])
    page = fetch(port)
    print(f"http://127.0.0.1:{port}/ says: {page}", end="")
    if page != PAGE:
        raise DemoError(f"that is not the page: {page!r}")
    demo.run("ps")
    demo.run("exec", name, "ps")
    say("Gone again")


def main() -> int:
    """Run the demo and clean up whatever happened."""
    if os.geteuid() != 0:
        print("demo: containers need root here: sudo make demo", file=sys.stderr)
        return 1
    if not BUSYBOX.exists():
        print("demo: /bin/busybox is missing: apt-get install busybox-static", file=sys.stderr)
        return 1
    if INSIDE not in sys.argv:
        argv = ["unshare", "--net", "--", sys.executable, __file__, INSIDE]
        os.execvp(argv[0], argv)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    root = Path(tempfile.mkdtemp(prefix="gantry-demo-"))
    demo = Demo(root)
    try:
        show(demo)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        demo.stop()
        shutil.rmtree(root, ignore_errors=True)
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
