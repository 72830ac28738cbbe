"""Judge: people compare the answers of base and tuned, without knowing which is which.

Reads   generate/<side>.parquet, and what judges exported into <judge.folder>/<run>/
Writes  judge/page.html (sent to the judges), judge/key.json (kept from them), judgement.json
Why     no metric of texts replaces a reader; a page in one file needs no server, and its hash ties votes to answers
"""


localrules:
    judge,
    judgement,


rule judge:
    """Write the page, and the key that says which side is which."""
    input:
        answers=both_sides("generate"),
        template=str(ROOT / "workflow/report/judge.html.j2"),
        code=code("judge.py", *JUDGE_PARTS),
    output:
        page=report(
            "results/{run}/judge/page.html",
            category="People",
            labels={"run": "{run}", "page": "A/B page for judges"},
            caption="../report/captions/judge.rst",
        ),
        key="results/{run}/judge/key.json",
    log:
        "logs/{run}/judge.log",
    params:
        settings=settings("judge"),
    script:
        "../scripts/judge.py"


rule judgement:
    """Count the votes; files of another page are refused."""
    input:
        key=of("judge", "judge/key.json"),
        votes=judgements,
        code=code("judgement.py"),
    output:
        judgement="results/{run}/judgement.json",
    log:
        "logs/{run}/judgement.log",
    params:
        settings=settings("judgement"),
    script:
        "../scripts/judgement.py"
