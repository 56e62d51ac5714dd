"""What every metric means: the one source of the tables in the documentation."""

from __future__ import annotations

LOSS_AND_REWARDS = {
    "loss": "The loss, as a mean over prompts.",
    "rewards/chosen": (
        "Implicit reward that the loss compares: beta times the log-ratio of policy and reference, summed or averaged as "
        "the loss does."
    ),
    "rewards/rejected": "The same of the rejected completions.",
    "rewards/margins": "Chosen minus rejected reward.",
    "rewards/accuracies": "Share of the pairs with a label that are ranked as it says; equal rewards count one half.",
    "label_ties": "Share of pairs without a label: P(chosen beats rejected) is one half.",
    "logps/chosen": "Log-probability of the chosen completions under the policy, summed over tokens, in nats.",
    "logps/rejected": "The same of the rejected completions.",
    "logps_mean/chosen": "Log-probability per token of the chosen completions under the policy, in nats.",
    "logps_mean/rejected": "The same of the rejected completions.",
    "ref_logps/chosen": "Log-probability of the chosen completions under the reference, summed over tokens, in nats.",
    "ref_logps/rejected": "The same of the rejected completions.",
    "length/chosen": "Tokens of the chosen completions.",
    "length/rejected": "Tokens of the rejected completions.",
    "displacement/chosen": "Change of `logps/chosen` on held-out pairs since step 0, in nats.",
}
"""Of a batch of training pairs, or of the held-out ones. With unpaired feedback chosen is desirable, rejected undesirable."""

TRAINING = {
    "grad_norm": "Norm of the gradient before it is clipped.",
    "lr": "Learning rate.",
    "pairs_per_s": "Prompts per second of training time.",
    "tokens_per_s": "Tokens per second of training time; a prompt's tokens count once, however many completions it has.",
}
"""Of the optimiser steps since the last logged one."""

POLICY_SAMPLES = {
    "kl": "KL(policy || reference) of whole completions, in nats, estimated from policy samples.",
    "entropy": "Entropy of the policy's samples, in nats per token.",
    "length/policy": "Tokens of the policy's samples.",
    "distinct_2": "Different word pairs among 1,000, as a share, whatever the number of samples; absent with fewer pairs.",
    "proxy/policy": "Mean reward of policy samples by the scorer that labelled the training pairs.",
    "proxy/reference": "The same of the reference, over all its samples of each prompt.",
    "reward/policy": (
        "Mean reward of policy samples by the gold scorer: fitted on other data than the training reward, or the same reward "
        "where none is fitted."
    ),
    "reward/reference": "The same of the reference, over all its samples of each prompt.",
    "positive/policy": "Share of policy samples with a gold reward above 0.",
    "positive/reference": "The same of the reference, over all its samples of each prompt.",
    "win_rate": (
        "How often a policy sample has a higher gold reward than a reference sample of its prompt, over all of them; a "
        "tie is one half."
    ),
    "num_prompts": "Different held-out prompts that were sampled for.",
}
"""Of one policy sample for each held-out prompt."""

FINAL = {
    "ideal_share": "Gain in training reward over the reference, as a share of what the ideal frontier has at the same KL.",
    "ideal_share_reason": "Why there is no `ideal_share`, such as KL within 2 standard errors of 0.",
    "ideal_extrapolated": (
        "True, and shown as *, where the policy's KL lies beyond the frontier's last point; the gain there grows as the "
        "square root of KL."
    ),
    "ideal_frontier": (
        "Best possible reward at each KL, from reference samples at temperature 1 (those of training prompts too, if "
        "`candidates.temperature` is 1), reweighted by their rewards. It assumes that rewards are spread alike around each "
        "prompt's mean, and is too high where they are not."
    ),
    "best_of_n": (
        "For each n: proxy, reward and positive of the best of n reference samples. `kl_bound` = log n - (n - 1)/n is the most "
        "that their KL can be; `kl` is less where rewards tie (an estimate if there is a `kl_se`, else the bound)."
    ),
}
"""At the end of a run only, in summary.json."""

OF_ONE_LOSS = {
    "baseline": "`kto`: the KL baseline z, in nats.",
    "delta": "`bco`: the running mean of rewards that divides desirable from undesirable.",
    "beta_in_use": "`beta_dpo`: the beta of the step.",
    "pairs_kept": "`beta_dpo`: share of the pairs that it does not filter out.",
    "target": "`alpha_dpo`: the mean target margin, in rewards.",
    "gap_mean": "`alpha_dpo`: running mean that the reference's margins are standardised by.",
    "gap_deviation": "`alpha_dpo`: running standard deviation that they are standardised by.",
    "lambdas": "`lipo_lambda`: mean lambda weight of a pair.",
    "one_sided": "`aot_unpaired`: 1 for a step with completions of one kind only, which has no gradient.",
    "weights": "`loss.weighting=wpo`: mean weight of a pair.",
}
"""What single losses log besides. `mix` logs each part's loss as 0.dpo, 1.bco, ..., and what a part logs as 1.delta, ..."""

SECTIONS = {
    "Pairs": LOSS_AND_REWARDS,
    "Optimiser steps": TRAINING,
    "Policy samples": POLICY_SAMPLES,
    "The end of a run": FINAL,
    "Single losses": OF_ONE_LOSS,
}

METRICS: dict[str, str] = {name: meaning for section in SECTIONS.values() for name, meaning in section.items()}


def meaning(name: str) -> str | None:
    """What a metric means, also under its prefix `eval/` and as a standard error; None for an unknown one."""
    plain = name.removeprefix("eval/")
    number, _, of_part = plain.partition(".")
    if number.isdecimal():
        return METRICS.get(of_part, f"`mix`: mean loss of its part {number}, {of_part}.")
    if plain.endswith("_se") and plain.removesuffix("_se") in METRICS:
        return f"Standard error of {plain.removesuffix('_se')}, with prompts as clusters."
    return METRICS.get(plain)
