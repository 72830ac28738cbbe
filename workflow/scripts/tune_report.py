"""The page of a search: which configuration is best, how surely, and what the trials say about each setting.

In:  trial.json of each trial, the generation-<gg>.json that proposed them, best.json, the template
Out: report.html, self-contained: no font, no picture, no script from elsewhere; its one script sorts tables

The order is that of a reader's questions: what is best and is it more than luck; did the search settle; which
settings mattered; where along each of them is it good; how did the trials run; and all of them as a table.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from snaketune.job import run
from snaketune.pages.pages import render
from snaketune.pages.tune_charts import curves, far_off, history, scored, slice_of
from snaketune.pages.tune_importance import bars, correlation, importances, in_words
from snaketune.pages.tune_parallel import parallel
from snaketune.pages.tune_trials import Search, Trial, read_search, told
from snaketune.pages.tune_words import FEW, cautions, loss_in_words, parallel_in_words, tally, verdict


def tune_report(
    trials: list[str], generations: list[str], best: str, page: str, settings: Mapping[str, Any], template: str
) -> str:
    """Write the page. settings: {"run", "tune": the section of the search, "seed"}.

    Raises StageError where `best` names a trial that is not among `trials`, or one without a loss.
    """
    tune = settings["tune"]
    search = read_search(trials, generations, best, tune["space"])
    importance = importances(search, settings["seed"])
    complete = scored(search, "complete")
    html = render(
        template,
        run=settings["run"],
        method=tune["method"],
        search=search,
        verdict=verdict(search),
        cautions=cautions(search),
        final=f"../../{quote(settings['run'])}-best/report.html" if tune["final"] else None,
        history=history(search),
        importance=importance,
        importance_bars=bars(importance) if importance else None,
        importance_words=in_words(importance),
        parallel=parallel(search),
        parallel_words=parallel_in_words(search),
        slices=[(one, slice_of(search, one), correlation(one, complete)) for one in search.dimensions],
        curves=curves(search),
        far=far_off(search),
        rows=_rows(search),
        reasons=any(trial.reason for trial in search.trials),
        few=FEW,
        told=told,
        loss_in_words=loss_in_words,
        yaml=yaml.safe_dump(dict(tune), sort_keys=False, allow_unicode=True, width=100),
    )
    Path(page).write_text(html, encoding="utf-8", errors="replace")
    return f"best is trial {search.best.number}, loss {loss_in_words(search.best.loss)}. {tally(search)}"


def _rows(search: Search) -> list[Trial]:
    """The complete trials by loss, then the pruned and the failed ones by number."""
    return [*search.ranked, *search.of("pruned"), *search.of("failed")]


if __name__ == "__main__":
    run(
        lambda job: tune_report(
            list(job.input.trials),
            list(job.input.generations),
            job.input.best,
            job.output.page,
            job.params.settings,
            job.input.template,
        ),
        snakemake,
    )
