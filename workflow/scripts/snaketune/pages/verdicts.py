"""The words at the top of a report: what became of the metrics, which bounds hold, and what to be careful about."""

from __future__ import annotations

from typing import Any

from snaketune.pages.metric_groups import group_of
from snaketune.pages.pages import interval, label, measured, ordered, outcome, p_value, percent, short

FEW_ROWS = 50
# From this share of answers that end at `generate.max_new_tokens` on, metrics of the answers measure the limit too.
MANY_CUT = 0.2

Metrics = dict[str, dict[str, Any]]


def headline(metrics: Metrics) -> list[str]:
    """The verdict, in two sentences at most: what became of the perplexity, and of the other metrics."""
    sentences = []
    if entry := metrics.get("perplexity"):
        sentences.append(_perplexity(entry))
    others = [name for name in ordered(metrics) if _is_score(name, metrics[name])]
    by = {kind: [n for n in others if outcome(metrics[n]) == kind] for kind in ("better", "worse", "unclear")}
    if others:
        parts = [f"{len(names)} got {kind}" for kind in ("better", "worse") if (names := by[kind])]
        if by["unclear"]:
            parts.append(f"{len(by['unclear'])} {'shows' if len(by['unclear']) == 1 else 'show'} no clear difference")
        firsts = [name for name in ("f1_macro", "bleu", "rougeL", "exact_match") if name in others][:2]
        numbers = ", ".join(f"{label(n)} {short(metrics[n]['base'])} → {short(metrics[n]['tuned'])}" for n in firsts)
        scores = (
            f"Of {len(others)} scores of accuracy and of the answers" if len(others) > 1 else f"Of {label(others[0])}"
        )
        sentences.append(f"{scores}, {', '.join(parts)}{f' ({numbers})' if numbers else ''}.")
    return sentences or ["No metric was computed."]


def _is_score(name: str, entry: dict[str, Any]) -> bool:
    """Whether a metric counts as one of accuracy or of the answers, with a better direction."""
    if entry["higher_is_better"] is None or name == "calibration_error":
        return False
    return name.startswith("token_accuracy") or group_of(name) in ("answers", "classification", "own")


def _perplexity(entry: dict[str, Any]) -> str:
    base, tuned, kind = short(entry["base"]), short(entry["tuned"]), outcome(entry)
    bounds = interval(entry.get("ci95"), "perplexity", sign=True)
    proof = f"95\u00a0% interval of the difference {bounds}, p\u00a0{_relation(entry)}"
    rows = f"over {entry['n']:,} test row{'s' * (entry['n'] != 1)}"
    if kind == "unclear":
        return f"Perplexity went from {base} to {tuned}, no clear difference ({proof}, {rows})."
    verb = "fell" if kind == "better" else "rose"
    return f"Perplexity {verb} from {base} to {tuned} ({proof}, {rows})."


def _relation(entry: dict[str, Any]) -> str:
    text = p_value(entry.get("p"))
    return text if text.startswith("<") else f"=\u00a0{text}"


def checks_in_words(checks: list[dict[str, Any]]) -> str:
    """How many of the bounds hold; empty where none was set."""
    if not checks:
        return ""
    held = sum(check["holds"] for check in checks)
    if held == len(checks):
        return "The check holds." if len(checks) == 1 else f"All {len(checks)} checks hold."
    failed = len(checks) - held
    return f"{failed} of {len(checks)} checks fail{'s' * (failed == 1)}." if held else "No check holds."


def cautions(metrics: Metrics, failures: list[dict[str, Any]], few_shot: int) -> list[str]:
    """What a careful reader must know before quoting the numbers."""
    found = []
    rows = [entry["n"] for name, entry in metrics.items() if group_of(name) != "probes"]
    if rows and min(rows) < FEW_ROWS:
        found.append(f"Only {min(rows):,} test rows carry some of these numbers: intervals from so few are too narrow.")
    for failure in failures:
        if failure["kind"] == "truncated" and failure["of"] and failure["tuned"] >= MANY_CUT * failure["of"]:
            share = percent(failure["tuned"], failure["of"])
            found.append(
                f"{share} of the tuned model's answers stop at the limit of generate.max_new_tokens: their metrics "
                "measure the limit too."
            )
    if (entry := metrics.get("general_perplexity")) and outcome(entry) == "worse":
        base, tuned = (measured(entry[who], "general_perplexity") for who in ("base", "tuned"))
        found.append(
            f"On general text perplexity rose from {base} to {tuned}: the model has forgotten part of what it knew."
        )
    if few_shot:
        found.append(
            f"The base model was shown {few_shot} example{'s' * (few_shot != 1)} before each prompt, the tuned model "
            "none: their answers are compared under different prompts."
        )
    return found


def forgetting(metrics: Metrics) -> str:
    """What became of the perplexity of general text; empty where it was not probed."""
    entry = metrics.get("general_perplexity")
    if not entry:
        return ""
    base, tuned = (measured(entry[who], "general_perplexity") for who in ("base", "tuned"))
    bounds = interval(entry["ci95"], "general_perplexity", sign=True)
    proof = f"95\u00a0% interval of the difference {bounds}, over {entry['n']:,} passages"
    told = {
        "worse": f"Perplexity of general text rose from {base} to {tuned} ({proof}): part of what the base model knew "
        "is forgotten.",
        "better": f"Perplexity of general text fell from {base} to {tuned} ({proof}): no sign of forgetting.",
        "unclear": f"Perplexity of general text went from {base} to {tuned} ({proof}): no clear difference.",
    }
    return told[outcome(entry)]


def judged_in_words(judgement: dict[str, Any]) -> str:
    """What people preferred; empty where nobody has judged."""
    judges, rate = len(judgement["judges"]), judgement["win_rate"]
    if not judgement["judged"]:
        return ""
    people = f"{judges:,} judge{'s' * (judges != 1)}"
    if rate is None:
        return f"{people} compared answers and called every pair even."
    low, high = rate["ci95"]
    bounds = f"95\u00a0% interval {percent(low, 1)} to {percent(high, 1)}"
    told = f"{percent(rate['value'], 1)} of the pairs that were decided ({bounds})"
    if low > 0.5 or high < 0.5:
        return f"{people} preferred the {'tuned' if low > 0.5 else 'base'} model: the tuned one won {told}."
    return f"{people} showed no clear preference: the tuned model won {told}."
