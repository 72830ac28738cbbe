"""Token ids, a plan and a base model in, a tuned model out: the best checkpoint by validation loss.

In:  tokens/{train,validation}/ and their manifests, train/plan.{arrow,json}, train/preflight.json, the base model
Out: model/{config.json, model.safetensors, tokenizer files}, train/{history,speed,samples}.jsonl, train/summary.json

Work in progress stands in results/.store/<fingerprint>/, outside every declared output, because Snakemake deletes
those when a job starts or fails. The fingerprint covers data, base, settings, code and the libraries that compute:
an interrupted training goes on from its last checkpoint, a finished one is handed back at once (torch is not even
imported), and anything else starts afresh. snaketune/model/process.py trains, in this process or in several.
"""

import json
import math
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import snaketune
from snaketune.job import StageError, run, say
from snaketune.launching import command, environment_of, pass_on, world_size
from snaketune.store import claim, fingerprint
from snaketune.work import FAILURE, KINDS, STOPPED, StoppedError, Work

# Settings that decide no result. On how many devices a plan is computed changes no more than the order of additions and
# which random numbers drop out: a training goes on where it was, on another number of them too.
NOT_DECIDING = ("trackers", "checkpoint_minutes", "devices", "nodes", "parallel", "gradient_accumulation")
# Code that decides none
WITHOUT_EFFECT = ("job.py", "launching.py", "durable.py", "store.py", "trackers.py", "watch.py", "energy.py")


def train(work: Work, outputs: dict[str, str]) -> str:
    """Train, or hand back what the same fingerprint gave before.

    outputs: the files `config` (in the model's folder), `history`, `speed`, `samples` and `summary`.
    """
    with trained(work) as (done, again):
        model = Path(outputs["config"]).parent
        shutil.copytree(done / "model", model, dirs_exist_ok=True)
        for kind in KINDS:
            shutil.copyfile(done / f"{kind}.jsonl", outputs[kind])
        shutil.copyfile(done / "summary.json", outputs["summary"])
        facts = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    perplexity = math.exp(min(facts["best_eval_loss"], 700))
    sentence = f"validation perplexity {perplexity:,.2f} at step {facts['best_step']:,} of {facts['steps']:,}"
    return f"{sentence} (from the store: trained before)" if again else sentence


@contextmanager
def trained(work: Work) -> Iterator[tuple[Path, bool]]:
    """The files of a training, made now unless the store has them, and whether it had. Inside, no job removes them."""
    store = Path(work.folder)
    with claim(store, work.run):
        done = store / "done"
        again = done.exists()
        if not again:
            _start(work)
        yield done, again


def folder_of(
    store: str, settings: dict[str, Any], hashes: dict[str, str], how: dict[str, Any], files: Iterable[str]
) -> Path:
    """Where a training stands in the store: a name for everything that decides its result.

    hashes: of the tokens of both splits; how: what the preflight chose; files: base, plan and code.
    """
    deciding = {key: value for key, value in settings.items() if key not in NOT_DECIDING}
    computed = {key: value for key, value in how.items() if key != "pass_blocks"}
    parts = {"settings": deciding, "tokens": hashes, "how": computed}
    deciding_files = [path for path in files if Path(path).name not in WITHOUT_EFFECT]
    return Path(store) / fingerprint(parts, deciding_files)


def _start(work: Work) -> None:
    """Train in this process, or in as many as are set, on this machine or on several."""
    if world_size(work.settings) == 1:
        from snaketune.model.process import train_process

        train_process(work)
        return
    folder = Path(work.folder)
    (folder / FAILURE).unlink(missing_ok=True)
    order = folder / "work.json"
    order.write_text(json.dumps(asdict(work)), encoding="utf-8")
    scripts = str(Path(snaketune.__file__).resolve().parents[1])  # Snakemake runs a copy of this file elsewhere
    launcher = subprocess.Popen(
        command(work.settings, order.resolve(), os.environ),
        env=environment_of(os.environ, scripts, work.threads // work.settings["devices"]),
        stdout=subprocess.PIPE,
        text=True,
    )
    before = {
        number: signal.signal(number, lambda *_: pass_on(launcher, work.settings))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        assert launcher.stdout is not None
        for line in launcher.stdout:  # what the first process says to the person at the terminal
            say(line, end="")
        code = launcher.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if (folder / FAILURE).exists():
        sentence = (folder / FAILURE).read_text(encoding="utf-8")
        raise StoppedError(sentence) if sentence.startswith(STOPPED) else StageError(sentence)
    if code:
        raise StageError(
            f"a process of the training ended with code {code}; the log has its words. The same command goes on from "
            "the last checkpoint"
        )


def _from_job(job: Any) -> str:
    settings = job.params.settings
    names = ("train", "validation", "about", "preflight")
    read = {name: json.loads(Path(job.input[name]).read_text(encoding="utf-8")) for name in names}
    hashes = {name: read[name]["sha256"] for name in names[:2]}
    how = read["preflight"]["how"]
    files = [*job.input.base, job.input.plan, *(path for path in job.input.code if path.endswith(".py"))]
    folder = folder_of(job.params.store, settings, hashes, how, files)
    work = Work(
        run=job.wildcards.run,
        tokens={split: str(Path(state).parent) for split, state in zip(hashes, job.input.states, strict=True)},
        plan=job.input.plan,
        base=job.params.base,
        folder=str(folder),
        events=str(Path(job.log[0]).parent),
        settings=settings,
        how=how,
        facts={"plan": read["about"], "preflight": read["preflight"]},
        gpus=job.resources.get("gpu", 0),
        threads=job.threads,
    )
    return train(work, {name: job.output[name] for name in ("config", *KINDS, "summary")})


if __name__ == "__main__":
    run(_from_job, snakemake)
