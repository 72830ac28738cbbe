"""Jobs of the workflow as jobs of Kubernetes, for Snakemake's executor `cluster-generic`: submit, status, cancel.

    python profiles/kubernetes/jobs.py submit --name NAME --threads 4 --memory 16000 --gpus 1 --minutes 60 JOBSCRIPT
    python profiles/kubernetes/jobs.py status ID
    python profiles/kubernetes/jobs.py cancel ID ...

`submit` completes job.yaml and prints the id. All pods work in the same folder of a shared volume, as the jobs of a
cluster do: what stands in results/ but is no declared file (checkpoints, the store, token files) is there for all.
`kubectl` does the talking, with the context, the namespace and the rights that it has.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import uuid
from pathlib import Path
from typing import Any

import yaml

TEMPLATE = Path(__file__).with_name("job.yaml")
# The first process of a pod gets SIGTERM alone, and a shell passes none on: this one gives it to all that it started.
PASS_ON = (
    "set -m; sh \"$0\" & job=$!; trap 'kill -TERM -- -$job' TERM; wait $job; code=$?; trap - TERM; "
    "if kill -0 $job 2>/dev/null; then wait $job; code=$?; fi; exit $code"
)
GONE = "NotFound"


def manifest(given: argparse.Namespace, template: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The job: one container, which runs the job script in the folder."""
    job = json.loads(json.dumps(template))
    name = re.sub(r"[^a-z0-9]+", "-", given.name.lower()).strip("-")[:40]
    job["metadata"]["name"] = f"{name}-{uuid.uuid4().hex[:12]}"
    job["spec"]["activeDeadlineSeconds"] = 60 * given.minutes
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["bash", "-c", PASS_ON, str(given.jobscript.resolve())]
    container["workingDir"] = str(folder)
    limits = {"memory": f"{given.memory}M"} | ({"nvidia.com/gpu": str(given.gpus)} if given.gpus else {})
    container["resources"] = {"requests": limits | {"cpu": str(given.threads)}, "limits": limits}
    return job


def submit(given: argparse.Namespace) -> str:
    """Create the job; returns its id."""
    job = manifest(given, yaml.safe_load(TEMPLATE.read_text(encoding="utf-8")), Path.cwd())
    done = kubectl("create", "-f", "-", stdin=json.dumps(job))
    if done.returncode:
        raise SystemExit(f"kubectl refused the job: {done.stderr.strip()}")
    return job["metadata"]["name"]


def status(given: argparse.Namespace) -> str:
    """`running`, `success` or `failed`; while Kubernetes does not answer, what it last was: running."""
    done = kubectl("get", "job", given.id, "-o", "json")
    if done.returncode:
        return "failed" if GONE in done.stderr else "running"
    conditions = json.loads(done.stdout).get("status", {}).get("conditions") or []
    true = {condition["type"] for condition in conditions if condition["status"] == "True"}
    return "failed" if "Failed" in true else "success" if "Complete" in true else "running"


def cancel(given: argparse.Namespace) -> str:
    """Delete the jobs; their pods are asked to stop first."""
    return kubectl("delete", "job", "--wait=false", "--ignore-not-found", *given.ids).stdout.strip()


def kubectl(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """What kubectl says."""
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False)


def main() -> None:
    """One of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("submit")
    one.set_defaults(do=submit)
    one.add_argument("--name", required=True)
    for option in ("threads", "memory", "gpus", "minutes"):
        one.add_argument(f"--{option}", type=int, required=True)
    one.add_argument("jobscript", type=Path)
    one = verbs.add_parser("status")
    one.set_defaults(do=status)
    one.add_argument("id")
    one = verbs.add_parser("cancel")
    one.set_defaults(do=cancel)
    one.add_argument("ids", nargs="+")
    given = parser.parse_args()
    print(given.do(given))


if __name__ == "__main__":
    main()
