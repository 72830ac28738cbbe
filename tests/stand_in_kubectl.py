"""Stands in for kubectl and a cluster: `create` starts a job here, `get` tells its state, `delete` stops it.

It shows that jobs.py hands over what it should and reads states as Kubernetes writes them, not that a cluster takes it.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["STAND_IN"])
RUNNER = (
    "import subprocess, sys; code = subprocess.run(sys.argv[2:]).returncode; open(sys.argv[1], 'w').write(str(code))"
)


def create() -> None:
    job = json.load(sys.stdin)
    name, container = job["metadata"]["name"], job["spec"]["template"]["spec"]["containers"][0]
    (STATE / f"{name}.json").write_text(json.dumps(job))
    command = [sys.executable, "-c", RUNNER, str(STATE / f"{name}.code"), *container["command"]]
    with (STATE / f"{name}.log").open("w") as log:
        pod = subprocess.Popen(command, cwd=container["workingDir"], stdout=log, stderr=log, start_new_session=True)
    (STATE / f"{name}.pid").write_text(str(pod.pid))


def get(name: str) -> None:
    if not (STATE / f"{name}.json").exists():
        sys.exit(f'Error from server (NotFound): jobs.batch "{name}" not found')
    code = STATE / f"{name}.code"
    text = code.read_text() if code.exists() else ""
    kind = {"": None, "0": "Complete"}.get(text, "Failed")
    waiting = {"type": "Suspended", "status": "False"}
    conditions = [waiting, *([{"type": kind, "status": "True"}] if kind else [])]
    print(json.dumps({"status": {"conditions": conditions} if text else {"active": 1}}))


def delete(names: list[str]) -> None:
    for name in names:
        children = Path(f"/proc/{(STATE / f'{name}.pid').read_text()}/task")
        for first in [child for task in children.glob("*/children") for child in task.read_text().split()]:
            os.kill(int(first), signal.SIGTERM)  # to the first process of the pod alone, as Kubernetes does
        print(f'job.batch "{name}" deleted')


match sys.argv[1:]:
    case _ if (STATE / "down").exists():
        sys.exit("Unable to connect to the server: dial tcp: i/o timeout")
    case ["create", "-f", "-"]:
        create()
    case ["get", "job", name, "-o", "json"]:
        get(name)
    case ["delete", "job", "--wait=false", "--ignore-not-found", *names]:
        delete(names)
    case other:
        sys.exit(f"unknown: {other}")
