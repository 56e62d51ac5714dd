"""The provenance of runs beside their settings: code, library versions, base policy and pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dpo_lab.compare.runs import FinishedRun

STAGE_SEEDS = {
    "tokenizer": ("data.seed",),
    "base": ("data.seed", "base.seed"),
    "pairs": ("data.seed", "base.seed", "candidates.seed"),
}
"""The seeds that decide a stage's result."""
IN_WORDS = {"tokenizer": "tokenizers", "base": "base policies", "pairs": "pairs"}
DIGITS = 4
NAMED = 5


def conflicts(a: FinishedRun, b: FinishedRun) -> dict[str, str]:
    """How the provenance of two runs differs, by kind, in words; empty if they may share a row.

    What only one of them records is no conflict.
    """
    phrases = {}
    modules = different_modules(a, b)
    if modules:
        phrases["code"] = f"code ({_listed(_short(modules))})"
    elif modules is None and _commit(a) != _commit(b):
        phrases["git"] = f"code (commits {_commit_in_words(a)} and {_commit_in_words(b)})"
    elif modules is None and a.facts.get("code") and b.facts.get("code"):
        phrases["code"] = "code (recorded as one digest and module by module)"
    packages = different(a.facts.get("versions"), b.facts.get("versions"))
    if packages:
        phrases["versions"] = f"versions of {_listed(packages)}"
    if a.decided == b.decided:
        phrases |= _stages(a, b)
    return phrases


def provenance_key(run: FinishedRun) -> str:
    """A key that is equal for runs which have no conflict with one another and conflict with the same others."""
    seeds = [run.settings.get(seed) for seed in STAGE_SEEDS["pairs"]]
    facts = [run.facts.get(name) for name in ("code", "versions", "made_from")]
    return json.dumps([*facts, _commit(run), run.decided, seeds], sort_keys=True, default=str)


def _stages(a: FinishedRun, b: FinishedRun) -> dict[str, str]:
    """The first stage whose result differs although its seeds are the same; later ones differ because of it."""
    for stage in different(a.facts.get("made_from"), b.facts.get("made_from"), order=STAGE_SEEDS):
        seeds = STAGE_SEEDS.get(stage, ())
        if all(a.settings.get(seed) == b.settings.get(seed) for seed in seeds):
            return {stage: f"{IN_WORDS.get(stage, stage)} under the same settings"}
    return {}


def different_modules(a: FinishedRun, b: FinishedRun) -> list[str] | None:
    """The modules whose digests differ; None if the runs do not record them in the same way."""
    code, other = a.facts.get("code"), b.facts.get("code")
    if isinstance(code, Mapping) and isinstance(other, Mapping):
        return different(code, other)
    if isinstance(code, str) and isinstance(other, str):
        return [] if code == other else ["the package"]
    return None


def different(a: Any, b: Any, order: Sequence[str] | Mapping[str, Any] = ()) -> list[str]:
    """The keys that both mappings have with different values."""
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return []
    keys = [key for key in a if key in b and a[key] != b[key]]
    places = list(order)
    return sorted(keys, key=lambda key: (places.index(key) if key in places else len(places), key))


def provenance_label(part: Sequence[FinishedRun], parts: Sequence[Sequence[FinishedRun]], kinds: Iterable[str]) -> str:
    """A short label of a part's code, versions or stages: 'code 1a2b', 'torch 2.13.0', 'base 3c4d'."""
    run = part[0]
    everyone = [other for members in parts for other in members]
    labels = []
    for kind in sorted(kinds):
        if kind == "code":
            modules = sorted({module for other in everyone for module in different_modules(run, other) or []})
            code = run.facts.get("code")
            text = json.dumps([code.get(module) for module in modules or sorted(code)] if isinstance(code, Mapping) else code)
            digest = code if isinstance(code, str) else hashlib.sha256(text.encode()).hexdigest()
            labels.append(f"code {digest[:DIGITS]}")
        elif kind == "git":
            labels.append(f"git {_commit_in_words(run)}")
        elif kind == "versions":
            versions = run.facts.get("versions") or {}
            packages = sorted({name for other in everyone for name in different(versions, other.facts.get("versions"))})
            labels += [f"{name} {versions[name]}" for name in packages]
        else:
            labels.append(f"{kind} {str((run.facts.get('made_from') or {}).get(kind))[:DIGITS]}")
    return ", ".join(labels)


def warnings_between_rows(rows: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """Warnings that the rows of a table differ in code or library versions, not only in settings."""
    firsts = list(
        {json.dumps([row[0].facts.get(name) for name in ("code", "versions", "git")]): row[0] for row in rows}.values()
    )
    pairs = [(a, b) for i, a in enumerate(firsts) for b in firsts[:i]]
    warnings = []
    modules = sorted({module for a, b in pairs for module in different_modules(a, b) or []})
    unsaid = [(a, b) for a, b in pairs if different_modules(a, b) is None]
    commits = {_commit_in_words(run) for a, b in unsaid for run in (a, b)}
    if modules == ["the package"]:
        digests = {str(run.facts.get("code")) for run in firsts}
        warnings.append(f"the rows are of {len(digests)} versions of the code")
    elif modules:
        warnings.append(f"the rows differ in the code of {_listed(_short(modules))}")
    if len(commits) > 1:
        warnings.append(f"the rows are of {len(commits)} versions of the code: {_listed(sorted(commits))}")
    packages = sorted({name for a, b in pairs for name in different(a.facts.get("versions"), b.facts.get("versions"))})
    if packages:
        warnings.append(f"the rows differ in the versions of {_listed(packages)}")
    return warnings


def warnings_of_runs(runs: Sequence[FinishedRun]) -> list[str]:
    """Warnings about runs: older, stopped by the clock, of unrecorded code, with accepted artifacts, changed on resume."""
    older = [run.path.name for run in runs if run.is_older]
    dirty = [run.path.name for run in runs if not run.facts.get("code") and (run.facts.get("git") or {}).get("dirty")]
    accepted = [run.path.name for run in runs if run.facts.get("accepted")]
    kinds = sorted({kind for run in runs for kind in run.facts.get("accepted") or {}})
    bounded = [run.path.name for run in runs if run.facts.get("bounded_by")]
    warnings = []
    if older:
        warnings.append(
            "of an older version of this package: no standard errors but that of KL; win_rate and ideal_share from one "
            "reference sample of each prompt, accuracies with unlabelled pairs, distinct_2 by the number of samples, and "
            f"tokens_per_s with prompts counted several times: {_listed(older)}"
        )
    if bounded:
        warnings.append(f"stopped by the clock, so that their length is that of their machine: {_listed(bounded)}")
    if dirty:
        warnings.append(f"of uncommitted code that is not recorded, so that it may differ from run to run: {_listed(dirty)}")
    if accepted:
        warnings.append(f"with artifacts of other code, accepted by store.accept ({', '.join(kinds)}): {_listed(accepted)}")
    moved = [run.path.name for run in runs if run.facts.get("changed_on_the_way")]
    if moved:
        warnings.append(f"continued under other code or settings than they began with: {_listed(moved)}")
    return warnings


def _short(modules: Sequence[str]) -> list[str]:
    return [module.removeprefix("dpo_lab.") for module in modules]


def _commit(run: FinishedRun) -> tuple[Any, Any]:
    git = run.facts.get("git") or {}
    return git.get("sha"), bool(git.get("dirty"))


def _commit_in_words(run: FinishedRun) -> str:
    sha, dirty = _commit(run)
    return ("unknown" if sha is None else str(sha)[:7]) + (" with changes" if dirty else "")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
