"""`ray up cluster.yaml` on three hosts, a sweep on them, and what is left when a link or the head is lost."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from three_hosts import Host, Network, why_not

ROOT = Path(__file__).resolve().parents[2]
SPACE = """
name: {name}
base:
  model: lenet5
  data: {{name: digits, size: 16}}
  baseline: {{epochs: 2, lr: 0.02, batch_size: 32}}
  retrain: {{name: clr, epochs: {epochs}}}
axes:
  target.sparsity: [0.3, 0.5, 0.7]
  seed: [0, 1]
arms:
  - method: random
  - method: l1_norm
resources: {{cpus: 1}}
"""
TRIALS = 12


def _missing() -> str | None:
    if os.environ.get("PRUNESWEEP_CLUSTER_TEST") != "1":
        return "minutes long, and root: run by `make cluster-test`"
    if importlib.util.find_spec("aiohttp_cors") is None:
        return "no dashboard for `ray job submit`: pip install -c constraints.txt 'ray[default]'"
    return why_not()


pytestmark = pytest.mark.skipif(_missing() is not None, reason=str(_missing()))


class Cluster:
    """The three hosts, as seen from the desk of the person who works with them."""

    def __init__(self, network: Network, project: Path) -> None:
        self.network = network
        self.project = project
        self.runs = network.shared / "runs"
        self.most_memory = 0.0

    def host(self, name: str) -> Host:
        return self.network.hosts[name]

    def desk(self, command: str) -> list[str]:
        environment = (
            f"export PATH={sys.prefix}/bin:$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1"
        )
        return self.network.on(self.host("desk"), f"{environment}; {command}", self.project)

    def do(self, command: str, seconds: float = 300) -> str:
        done = subprocess.run(self.desk(command), capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.desk(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def up(self) -> None:
        self.do("ray up --yes test.yaml")
        self.wait(lambda: self.alive() == 3, 180, "three nodes")

    def alive(self) -> int:
        script = (
            "import ray; ray.init('auto', log_to_driver=False); print('alive', sum(n['Alive'] for n in ray.nodes()))"
        )
        done = subprocess.run(self.desk(f"ray exec test.yaml {shlex.quote(f'python -c {shlex.quote(script)}')}"),
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        match = re.search(r"^alive (\d+)", done.stdout, re.MULTILINE)
        return int(match[1]) if match else 0

    def submit(self, space: str) -> str:
        words = f"run {self.network.shared}/{space}.yaml --address auto --out {self.runs}"
        return f"ray submit test.yaml orchestrator/__main__.py {words}"

    def records(self, sweep: str) -> dict[str, dict[str, Any]]:
        paths = (self.runs / sweep / "trials").glob("*/result.json")
        return {path.parent.name: json.loads(path.read_text()) for path in paths}

    def children(self, sweep: str) -> list[str]:
        """Trial ids of the finished child runs of a sweep."""
        with sqlite3.connect(self.runs / "mlflow.db") as database:
            rows = database.execute(
                "select t.value from tags t join runs r using (run_uuid) join experiments e using (experiment_id) "
                "where t.key = 'trial_id' and r.lifecycle_stage = 'active' and r.status = 'FINISHED' and e.name = ?",
                (sweep,),
            ).fetchall()
        return sorted(value for (value,) in rows)

    def wait(self, until: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"no {what} in {seconds:.0f} s"
            time.sleep(0.2)

    def memory(self) -> float:
        """GiB that the hosts' processes hold, shared pages counted once."""
        total = 0
        for host in self.network.hosts.values():
            for pid in host.processes():
                try:
                    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                except OSError:
                    continue
                total += sum(int(size) for size in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE))
        self.most_memory = max(self.most_memory, total / 2**20)
        return total / 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    base = Path(tempfile.mkdtemp(prefix="prunesweep-cluster-", dir="/var/tmp"))
    base.chmod(0o755)
    try:
        with Network(base, ("desk", "head", "first", "second")) as network:
            project = base / "project"
            listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
            files = (
                ["--files-from=-"] if listing.returncode == 0 else ["--exclude=.venv", "--exclude=runs", "--recursive"]
            )
            subprocess.run(["rsync", "-a", *files, f"{ROOT}/", f"{project}/"], input=listing.stdout)
            (project / "test.yaml").write_text(yaml.safe_dump(adapted(network), sort_keys=False))
            started = Cluster(network, project)
            started.do("ray get-auth-token --generate > /dev/null")
            started.up()
            yield started
            print(f"most memory of all hosts together: {started.most_memory:.2f} GiB")
    finally:
        shutil.rmtree(base, ignore_errors=True)


def adapted(network: Network) -> dict[str, Any]:
    """Return cluster.yaml with the hosts' addresses and key, this Python instead of an installed one, a CPU each."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    addresses = {name: host.address for name, host in network.hosts.items()}
    config["provider"] |= {"head_ip": addresses["head"], "worker_ips": [addresses["first"], addresses["second"]]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(network.base / "key")}
    installing = [command for command in config["setup_commands"] if "-m venv" in command or "-m pip" in command]
    assert len(installing) == 2
    kept = [command for command in config["setup_commands"] if command not in installing]
    # Use the code copied to the host, not the checkout for which the environment was installed.
    code = "grep -qs PYTHONPATH ~/.bashrc || echo 'export PYTHONPATH=$HOME/prunesweep OMP_NUM_THREADS=1' >> ~/.bashrc"
    config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/prunesweep-env", *kept, code]
    small = " --num-cpus=1 --object-store-memory=100000000 --disable-usage-stats"
    # A lost host is noticed in seconds rather than a minute.
    quick = "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=3 "
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[key] = [
            c.replace("ray start", quick + "ray start") + small if "ray start" in c else c for c in config[key]
        ]
    return config


def write_space(cluster: Cluster, name: str, epochs: int) -> None:
    (cluster.network.shared / f"{name}.yaml").write_text(SPACE.format(name=name, epochs=epochs))


def test_ray_asks_for_the_token(cluster: Cluster) -> None:
    script = "import ray; ray.init('auto')"
    tried = f"ray exec test.yaml {shlex.quote(f'RAY_AUTH_TOKEN=wrong python -c {shlex.quote(script)}')}"
    done = subprocess.run(cluster.desk(tried), capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "uthentication" in done.stdout + done.stderr
    listening = cluster.do("ray exec test.yaml 'ss -tln || netstat -tln || cat /proc/net/tcp'")
    assert re.search(r"127\.0\.0\.1:8265|0100007F:2049", listening)


def test_nodes_that_cannot_run_the_sweep_are_named_before_the_first_trial(cluster: Cluster) -> None:
    write_space(cluster, "unfit", 1)
    own = cluster.submit("unfit").replace(str(cluster.runs), "/tmp/runs")
    done = subprocess.run(cluster.desk(own), capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    (error,) = re.findall(r"^error: .*", done.stdout + done.stderr, re.MULTILINE)
    assert error.startswith("error: --address auto: node ")
    for name in ("first", "second"):
        address = re.escape(cluster.host(name).address)
        assert re.search(rf"node {name} \({address}\) does not share --out '/tmp/runs'", error)
    assert "node head" not in error
    assert "Traceback" not in done.stdout + done.stderr

    code = cluster.host("second").home / "prunesweep/orchestrator/models/lenet.py"
    before = code.read_text()
    code.write_text(before + "# another version\n")
    done = subprocess.run(cluster.desk(cluster.submit("unfit")), capture_output=True, text=True, timeout=200)
    code.write_text(before)
    assert done.returncode != 0
    (error,) = re.findall(r"^error: .*", done.stdout + done.stderr, re.MULTILINE)
    assert re.search(r"auto: node second \(.*\) has orchestrator code \w+, the driver code \w+\s*$", error)
    assert cluster.records("unfit") == {}
    assert not list(cluster.runs.glob(".preflight*"))


def test_a_lost_link_loses_and_repeats_nothing(cluster: Cluster) -> None:
    write_space(cluster, "linked", 60)

    def hosts(sweep: str) -> list[str]:
        return [str(record["host"]) for record in cluster.records(sweep).values()]

    driver = cluster.start(cluster.submit("linked"))
    second = cluster.host("second")
    try:
        cluster.wait(lambda: "second" in hosts("linked") or driver.poll() is not None, 240, "record of the second host")
        assert driver.poll() is None, (hosts("linked"), driver.communicate()[0])
        cluster.memory()
        cluster.network.cut(second)
        kept = cluster.records("linked")
        assert len(kept) < TRIALS
        said, _ = driver.communicate(timeout=400)
    finally:
        driver.kill()
        cluster.network.mend(second)
    assert driver.returncode == 0, said
    after = cluster.records("linked")
    assert len(after) == TRIALS
    assert {record["status"] for record in after.values()} == {"done"}
    assert {trial: after[trial] for trial in kept} == kept
    assert cluster.children("linked") == sorted(after)
    assert set(hosts("linked")) == {"head", "first", "second"}


def test_a_restarted_head_resumes_the_sweep(cluster: Cluster) -> None:
    cluster.wait(lambda: cluster.alive() == 3, 180, "return of the lost host")
    write_space(cluster, "headed", 60)
    forward = cluster.start("ray dashboard test.yaml --port 18265")
    entry = f"prunesweep run {cluster.network.shared}/headed.yaml --address auto --out {cluster.runs}"
    job = f"ray job submit --address http://127.0.0.1:18265 --submission-id headed --working-dir . -- {entry}"
    said = ""
    try:
        submitted = time.monotonic()
        waiting = cluster.start(f"until curl -s -o /dev/null http://127.0.0.1:18265; do sleep 0.5; done; {job}")
        cluster.wait(lambda: len(cluster.records("headed")) >= 3 or waiting.poll() is not None, 240, "three records")
        cluster.memory()
        if waiting.poll() is not None:
            said = waiting.communicate()[0]
        assert len(cluster.records("headed")) >= 3, said
        print(f"three records {time.monotonic() - submitted:.0f} s after ray job submit")
        cluster.network.stop(cluster.host("head"))
    finally:
        forward.kill()
        waiting.kill()
    time.sleep(5)
    kept = cluster.records("headed")
    assert len(kept) < TRIALS
    cluster.network.start(cluster.host("head"))
    cluster.up()
    said = cluster.do(cluster.submit("headed"), 400)
    after = cluster.records("headed")
    assert len(after) == TRIALS
    assert {trial: after[trial] for trial in kept} == kept
    executed = re.search(r"executed (\d+) of", said)
    assert executed is not None
    assert int(executed[1]) == TRIALS - len(kept)
    assert cluster.children("headed") == sorted(after)
