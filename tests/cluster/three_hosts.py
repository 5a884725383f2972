"""Hosts on one machine: network, process, mount and host-name spaces of their own, an sshd in each, a shared folder.

``ray up`` runs ``ray stop`` on its hosts, which ends every Ray process that it sees: here those of its host alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HOME = Path("/root")
SSHD = Path("/usr/sbin/sshd")


def why_not() -> str | None:
    """Return why hosts cannot be created on this machine; None if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "namespaces and mounts need root on Linux"
    if not SSHD.exists():
        return "no /usr/sbin/sshd: apt-get install openssh-server"
    for tool in ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync"):
        if shutil.which(tool) is None:
            return f"no {tool}: apt-get install iproute2 util-linux openssh-client rsync"
    tried = subprocess.run(["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "true"], capture_output=True)
    return None if tried.returncode == 0 else f"namespaces are refused: {tried.stderr.decode().strip()}"


@dataclass
class Host:
    """One machine of the network."""

    name: str
    address: str
    folder: Path
    space: str
    link: str
    init: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def processes(self) -> list[int]:
        """Return the ids, outside the host's namespace, of all processes on the host."""
        assert self.init is not None
        children = _children(self.init.pid)
        if not children:
            return []
        namespace = os.readlink(f"/proc/{children[0]}/ns/pid")
        processes = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns/pid") == namespace:
                    processes.append(int(folder.name))
            except OSError:
                continue
        return processes


@dataclass
class Network:
    """A bridge and the hosts on it, each at ``10.<block>.<address>``; all see ``shared``.

    Args:
        base: a folder outside of /tmp, which every host has for itself.
        names: of the hosts; the first of them is for a person's commands.
    """

    base: Path
    names: tuple[str, ...]
    hosts: dict[str, Host] = field(default_factory=dict)

    def __enter__(self) -> Network:
        self.tag = f"ps{os.getpid() % 100000}"
        self.block = f"10.213.{os.getpid() % 250}"
        self.bridge = f"{self.tag}b"
        self.shared = self.base / "shared"
        self.shared.mkdir(parents=True)
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        for host in self.hosts.values():
            self.stop(host)
        for host in self.hosts.values():
            _quietly("ip", "netns", "delete", host.space)
        _quietly("ip", "link", "delete", self.bridge)

    def _make(self) -> None:
        _do("ip", "link", "add", self.bridge, "type", "bridge")
        _do("ip", "addr", "add", f"{self.block}.1/24", "dev", self.bridge)
        _do("ip", "link", "set", self.bridge, "up")
        key = self.base / "key"
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        for number, name in enumerate(self.names):
            host = Host(
                name, f"{self.block}.{10 + number}", self.base / name, f"{self.tag}-{name}", f"{self.tag}v{number}"
            )
            self.hosts[name] = host
        for number, host in enumerate(self.hosts.values()):
            for inner in ("home/.ssh", "tmp", "shm", "run/sshd"):
                (host.folder / inner).mkdir(parents=True)
            (host.folder / "run/sshd").chmod(0o755)
            (host.folder / "tmp").chmod(0o1777)
            (host.home / ".ssh/authorized_keys").write_text((self.base / "key.pub").read_text())
            _do("ip", "netns", "add", host.space)
            inside = f"{self.tag}n{number}"
            _do("ip", "link", "add", host.link, "type", "veth", "peer", "name", inside)
            _do("ip", "link", "set", inside, "netns", host.space)
            _do("ip", "link", "set", host.link, "master", self.bridge)
            _do("ip", "link", "set", host.link, "up")
            within = ["ip", "-n", host.space]
            _do(*within, "link", "set", "lo", "up")
            _do(*within, "link", "set", inside, "name", "eth0")
            _do(*within, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _do(*within, "link", "set", "eth0", "up")
            # Nothing is reached by it; Ray takes the address of the interface that has the default route.
            _do(*within, "route", "add", "default", "via", f"{self.block}.1")
            self.start(host)

    def start(self, host: Host) -> None:
        """Boot a host: its spaces, its own /tmp, /run, /dev/shm and home, and an sshd."""
        folder = host.folder
        (folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{other.address} {other.name}\n" for other in self.hosts.values())
        )
        host_key = folder / "host_key"
        if not host_key.exists():
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
        (folder / "sshd_config").write_text(
            f"ListenAddress {host.address}\nHostKey {host_key}\nUsePAM no\nStrictModes no\nPidFile none\n"
            "PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\nMaxSessions 100\n"
            "Subsystem sftp internal-sftp\n"
        )
        mounts = [f"mount --rbind {folder / inner} {target}" for inner, target in
                  (("tmp", "/tmp"), ("run", "/run"), ("shm", "/dev/shm"), ("hosts", "/etc/hosts"))]  # fmt: skip
        # A Python below a folder that is replaced stays visible at its path.
        kept = []
        for prefix in {Path(sys.base_prefix), Path(sys.prefix).resolve()}:
            for root, replacement in ((HOME, host.home), (Path("/tmp"), folder / "tmp")):
                if prefix.is_relative_to(root):
                    target = replacement / prefix.relative_to(root)
                    target.mkdir(parents=True, exist_ok=True)
                    kept.append(f"mount --bind {prefix} {target}")
        boot = " && ".join(
            ["mount --make-rprivate /", *kept, *mounts, f"mount --rbind {host.home} {HOME}", "mount -t proc proc /proc",
             f"hostname {host.name}", f"exec {SSHD} -D -e -f {folder / 'sshd_config'}"]
        )  # fmt: skip
        spaces = ["unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child"]
        command = ["ip", "netns", "exec", host.space, *spaces, "sh", "-c", boot]
        with open(folder / "sshd.log", "ab") as log:
            host.init = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 20
        while b"Server listening" not in (folder / "sshd.log").read_bytes():
            assert host.init.poll() is None, (folder / "sshd.log").read_text()
            assert time.monotonic() < deadline, (folder / "sshd.log").read_text()
            time.sleep(0.05)

    def stop(self, host: Host) -> None:
        """Pull the plug: the first process of the host dies, and with it all the others."""
        if host.init is None:
            return
        inits = _children(host.init.pid)
        for pid in inits:
            os.kill(pid, signal.SIGKILL)
        host.init.kill()
        host.init.wait()
        host.init = None
        (host.folder / "sshd.log").unlink(missing_ok=True)
        for pid in inits:
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.02)

    def cut(self, host: Host) -> None:
        _do("ip", "link", "set", host.link, "down")

    def mend(self, host: Host) -> None:
        _do("ip", "link", "set", host.link, "up")

    def on(self, host: Host, command: str, cwd: Path) -> list[str]:
        """A command line that runs ``command`` on the host, in a login shell's environment."""
        assert host.init is not None
        (pid,) = _children(host.init.pid)
        inner = f"cd {shlex.quote(str(cwd))} && {command}"
        environment = ["env", "-i", f"HOME={HOME}", f"PATH={os.environ['PATH']}", "LANG=C.UTF-8", "TERM=dumb"]
        return ["nsenter", "--target", str(pid), "--net", "--pid", "--mount", "--uts", "--ipc",
                *environment, "bash", "-c", inner]  # fmt: skip


def _children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"


def _quietly(*words: str) -> None:
    subprocess.run(words, capture_output=True)
