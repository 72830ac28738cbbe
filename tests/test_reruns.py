"""What a change reruns: the table *change -> exactly these rules*, on a built copy of the micro example.

A dry run lists the rules of a real run: without checkpoints, Snakemake decides all of them before the first job.
"""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import micro

TOKENS = {"tokenize", "tokens", "ledger", "data_report"}
DATA = {"ingest", "clean", "sign", "dedup", "split", "leaks"} | TOKENS
ANSWERS = {"generate", "judge", "judgement"}
SCORED = {"score", "metrics", "errors"}
MODEL = {"train", "curves", "likelihood", "probe"} | ANSWERS | SCORED
PAGES = {"report", "gate", "card", "leaderboard"}
AHEAD = {"plan", "preflight"}
WHOLE = DATA | AHEAD | MODEL | PAGES | {"manifest"}
AFTER_METRICS = {"metrics", *PAGES}
AFTER_SCORES = SCORED | PAGES
AFTER_CLEAN = WHOLE - {"ingest", "clean"}
AFTER_DEDUP = AFTER_CLEAN - {"sign", "dedup"}
# A changed setting or file of code is written into the manifest, whose versions the report shows.
RECORD = {"manifest", "report", "gate", "leaderboard"}

Change = Callable[[Path], None]


def append(*files: str, text: str = "\n# edited\n") -> Change:
    """Edit files at their end."""

    def change(folder: Path) -> None:
        for file in files:
            with (folder / file).open("a", encoding="utf-8") as out:
                out.write(text)

    return change


def setting(section: str, **values: object) -> Change:
    """Change settings of one section of the configuration."""

    def change(folder: Path) -> None:
        config = yaml.safe_load((folder / "config/config.yaml").read_text(encoding="utf-8"))
        config.setdefault(section, {}).update(values)
        micro.write_config(folder, config)

    return change


def top(**values: object) -> Change:
    """Change settings at the top of the configuration."""

    def change(folder: Path) -> None:
        config = yaml.safe_load((folder / "config/config.yaml").read_text(encoding="utf-8"))
        micro.write_config(folder, config | values)

    return change


def touch_all(folder: Path) -> None:
    """Give every file of code, data, configuration and base model a new time stamp, as a fresh clone does."""
    for part in ("workflow", "config", "data", "base", "profiles", "Snakefile", "requirements.lock"):
        path = folder / part
        for file in [path] if path.is_file() else path.rglob("*"):
            os.utime(file)


def same_bytes(folder: Path) -> None:
    """Write an input file anew with the bytes that it had."""
    path = folder / "data/rows.jsonl"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def delete(path: str) -> Change:
    """Delete an output."""

    def change(folder: Path) -> None:
        target = folder / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def new_file(folder: Path) -> None:
    """Add a raw file."""
    micro.write_rows(folder / "data/more.jsonl", micro.rows(4, seed=7))


def new_votes(folder: Path) -> None:
    """Put a file where the judges' exports are read."""
    path = folder / "judgements/micro/one.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")


SCRIPTS = "workflow/scripts"
CASES: dict[str, tuple[Change, set[str]]] = {
    "nothing": (lambda folder: None, set()),
    "a touch of everything": (touch_all, set()),
    "an input rewritten with the same bytes": (same_bytes, set()),
    "a new raw row": (
        append("data/rows.jsonl", text='{"question": "And?", "answer": "a new row", "topic": "n"}\n'),
        WHOLE,
    ),
    "a new raw file": (new_file, WHOLE),
    "the lock": (append("requirements.lock"), WHOLE),
    "an edit in ingest.py": (append(f"{SCRIPTS}/ingest.py"), WHOLE),
    "an edit in clean.py": (append(f"{SCRIPTS}/clean.py"), WHOLE - {"ingest"}),
    "an edit in sign.py": (append(f"{SCRIPTS}/sign.py"), AFTER_CLEAN),
    "an edit in deduplicate.py": (append(f"{SCRIPTS}/deduplicate.py"), AFTER_CLEAN - {"sign"}),
    "an edit in split.py": (append(f"{SCRIPTS}/split.py"), AFTER_DEDUP),
    "an edit in leaks.py": (append(f"{SCRIPTS}/leaks.py"), {"leaks", "data_report"} | AFTER_METRICS | RECORD),
    "an edit in encode.py": (append(f"{SCRIPTS}/encode.py"), TOKENS | AHEAD | MODEL | PAGES | RECORD),
    "an edit in gather.py": (append(f"{SCRIPTS}/gather.py"), TOKENS - {"tokenize"} | AHEAD | MODEL | PAGES | RECORD),
    "an edit in ledger.py": (append(f"{SCRIPTS}/ledger.py"), {"ledger", "data_report"} | RECORD),
    "an edit in data_report.py": (append(f"{SCRIPTS}/data_report.py"), {"data_report"} | RECORD),
    "an edit in a stage that is off": (append(f"{SCRIPTS}/augment.py", f"{SCRIPTS}/decontaminate.py"), RECORD),
    "an edit in train.py": (append(f"{SCRIPTS}/train.py"), MODEL | PAGES | RECORD),
    "an edit in preflight.py": (append(f"{SCRIPTS}/preflight.py"), {"preflight"} | MODEL | PAGES | RECORD),
    "an edit in the training loop": (append(f"{SCRIPTS}/snaketune/model/loop.py"), MODEL | PAGES | RECORD),
    "an edit in curves.py": (append(f"{SCRIPTS}/curves.py"), {"curves"} | RECORD),
    "an edit in likelihood.py": (append(f"{SCRIPTS}/likelihood.py"), {"likelihood"} | AFTER_SCORES | RECORD),
    "an edit in generate.py": (append(f"{SCRIPTS}/generate.py"), ANSWERS | AFTER_SCORES | RECORD),
    "an edit in join.py": (append(f"{SCRIPTS}/join.py"), RECORD),
    "an edit in score.py": (append(f"{SCRIPTS}/score.py"), AFTER_SCORES | RECORD),
    "an edit in compare.py": (append(f"{SCRIPTS}/compare.py"), AFTER_METRICS | RECORD),
    "an edit in probe.py": (append(f"{SCRIPTS}/probe.py"), {"probe"} | AFTER_METRICS | RECORD),
    "an edit in errors.py": (append(f"{SCRIPTS}/errors.py"), {"errors"} | RECORD),
    "an edit in judge.py": (append(f"{SCRIPTS}/judge.py"), {"judge", "judgement"} | RECORD),
    "an edit in judgement.py": (append(f"{SCRIPTS}/judgement.py"), {"judgement"} | RECORD),
    "an edit in gate.py": (append(f"{SCRIPTS}/gate.py"), RECORD),
    "an edit in publish.py": (append(f"{SCRIPTS}/publish.py"), RECORD),
    "an edit of the probed texts": (append("probes/bias.yaml"), {"probe"} | AFTER_METRICS),
    "an edit in manifest.py": (append(f"{SCRIPTS}/manifest.py"), RECORD),
    "an edit in report.py": (append(f"{SCRIPTS}/report.py"), RECORD),
    "an edit in card.py": (append(f"{SCRIPTS}/card.py"), {"card"} | RECORD),
    "an edit in leaderboard.py": (append(f"{SCRIPTS}/leaderboard.py"), {"leaderboard"} | RECORD),
    "an edit in a metric": (append("workflow/metrics/bleu/bleu.py"), AFTER_SCORES | RECORD),
    "an edit in a module of two stages": (
        append(f"{SCRIPTS}/snaketune/text/minhash.py", f"{SCRIPTS}/snaketune/pages/verdicts.py"),
        AFTER_CLEAN,
    ),
    "an edit in the module of the model stages": (
        append(f"{SCRIPTS}/snaketune/model/lm.py"),
        {"preflight"} | MODEL | PAGES | RECORD,
    ),
    "the section source": (setting("source", keep=["topic"]), WHOLE),
    "the section clean": (setting("clean", min_chars=4), WHOLE - {"ingest"}),
    "the section dedup": (setting("dedup", threshold=0.7), AFTER_CLEAN - {"sign"}),
    "the signatures of the section dedup": (setting("dedup", bands=20), AFTER_CLEAN),
    "the section decontaminate": (
        setting("decontaminate", files="data/rows.jsonl"),
        AFTER_DEDUP | {"decontaminate"},
    ),
    "the section split": (setting("split", train=0.7, validation=0.15, test=0.15), AFTER_DEDUP),
    "the section leaks": (setting("leaks", near="report"), {"leaks", "data_report"} | AFTER_METRICS | RECORD),
    "the section augment": (top(augment=[{"method": "swap"}]), AFTER_DEDUP - {"split"} | {"augment"}),
    "the section annotate": (setting("annotate", files="data/rows.jsonl"), WHOLE - {"ingest"}),
    "the sections leaks and train at once": (
        lambda folder: (setting("leaks", near="report")(folder), setting("train", learning_rate=0.02)(folder)),
        {"leaks", "data_report"} | MODEL | PAGES | RECORD,
    ),
    "the section tokenize": (setting("tokenize", separator=" "), TOKENS | AHEAD | MODEL | PAGES | RECORD),
    "the section model": (setting("model", save_dtype="bfloat16"), MODEL | PAGES | RECORD),
    "the section train": (setting("train", learning_rate=0.02), MODEL | PAGES | RECORD),
    "two swapped values in train": (setting("train", batch_size=2, evaluations=4), AHEAD | MODEL | PAGES | RECORD),
    "what the preflight tries": (setting("train", attention="eager"), {"preflight"} | MODEL | PAGES | RECORD),
    "the order of a training alone": (append(f"{SCRIPTS}/plan.py"), AHEAD | MODEL | PAGES | RECORD),
    "the limit of the store": (top(store={"limit_gb": 5}), set()),
    "where special tokens are read": (
        setting("tokenize", special_tokens="parse"),
        TOKENS | AHEAD | MODEL | PAGES | RECORD,
    ),
    "the section generate": (setting("generate", max_new_tokens=4), ANSWERS | AFTER_SCORES | RECORD),
    "the section score": (setting("score", rouge_stemmer=True), AFTER_SCORES | RECORD),
    "the section compare": (setting("compare", resamples=200), {"errors"} | AFTER_METRICS | RECORD),
    "the shards of the answers": (
        setting("generate", shards=2),
        ANSWERS - {"generate"} | {"generate_part", "generate_joined"} | AFTER_SCORES | RECORD,
    ),
    "examples for the base model alone": (setting("generate", few_shot=1), ANSWERS | AFTER_SCORES | RECORD),
    "the section likelihood": (setting("likelihood", window=32), {"likelihood"} | AFTER_SCORES | RECORD),
    "the section probes": (setting("probes", bias="off"), {"probe"} | AFTER_METRICS | RECORD),
    "the section checks": (top(checks={"bleu": {"min": 0}}), {"card"} | RECORD),
    "the section errors": (setting("errors", rows=2), {"errors", "card"} | RECORD),
    "the section judge": (setting("judge", rows=2), {"judge", "judgement", "card"} | RECORD),
    "a judge's votes": (new_votes, {"judgement", "report", "gate"}),
    "the section publish": (setting("publish", license="mit"), {"card"} | RECORD),
    "the section report": (setting("report", title="A title"), {"card"} | RECORD),
    "the seed": (top(seed=1), AFTER_DEDUP),
    "a deleted table in the middle": (delete("results/micro/clean/rows-00000.parquet"), WHOLE - {"ingest"}),
    "a deleted token folder": (
        delete("results/micro/tokens/validation"),
        TOKENS | AHEAD | MODEL | PAGES | {"manifest"},
    ),
    "a deleted page": (delete("results/micro/report.html"), {"report", "gate"}),
}


def planned(folder: Path) -> set[str]:
    """The rules that a run would start."""
    done = micro.snakemake(folder, "--dry-run", "--quiet", "rules", "reason")
    stats = re.search(r"^job +count\n-+ +-+\n(.*?)\n\n", done.stdout + "\n\n", re.DOTALL | re.MULTILINE)
    if stats is None:
        assert "Nothing to be done" in done.stdout, done.stdout
        return set()
    return {line.split()[0] for line in stats[1].splitlines()} - {"all", "total"}


@pytest.mark.parametrize("name", CASES)
def test_a_change_reruns_exactly_the_stages_that_it_affects(name: str, workspace: Callable[[], Path]) -> None:
    change, expected = CASES[name]
    folder = workspace()
    time.sleep(0.01)  # a time stamp later than every output's
    change(folder)
    assert planned(folder) == expected
