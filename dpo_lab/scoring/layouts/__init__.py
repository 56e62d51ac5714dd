"""Layouts: ways to arrange a batch's tokens into forward passes. They change time and memory, never the scores.

One prompt PPP with the completions aa and b, another prompt QQ with the completions c and dd (. is padding):

    rows        PPPaa       One sequence a candidate, each with its own copy of the prompt. Any model; the only choice for one
                QQc..       completion a prompt. Sequences of like length run together, so little is padded.
                PPPb.
                QQdd.

    branches    PPPaab      One row a prompt, its candidates behind it, each blind to the others by a mask. The prompt is read
                QQcdd.      once; attention computes the whole masked square, so it pays for short rows and small models, and
                            for models that packed cannot run (windows, ALiBi, attention that is not PyTorch's fused one).

    packed      PPPaabQQcdd All prompts in one row. Nothing is padded and nothing masked: attention computes what is seen, block
                            by block (`scoring.attention`). Fastest for all but the smallest models.

Positions start again with every prompt, and after the prompt with every candidate, so each token is scored as in a text of its
own. CPU milliseconds of forward and backward, one thread (`experiments/throughput/layouts.py`):

    network, prompts x candidates, prompt/completion     rows   branches   packed
    6 x 256,  4 x 2, 256/256                            2,695      2,697    2,052
    6 x 256, 16 x 2, 100/60                             3,043      2,362    2,120
    6 x 256, 16 x 2, 20/20                                761        619      561
    4 x 512,  8 x 4, 30/30                              2,707      1,596    1,507
    2 x 64,  32 x 2, 8/8                                   33         27       34

`auto` counts the multiplications of each layout for each batch and takes the cheapest. Which layouts are exact for a model is
found out by trying (`scoring.self_check`).

    base        what a layout is: Layout, LayoutPlan, ForwardPass, and what a model offers
    cost        how multiplications are counted
    sequences   a batch as one sequence a candidate: where every layout starts from
    rows, branches, packed
    choosing    the cheapest layout of a batch
"""

from dpo_lab.scoring.layouts.base import ForwardPass, Layout, LayoutPlan, SharesPrompt, SplitsHead
from dpo_lab.scoring.layouts.choosing import ALL_LAYOUTS, forward_cost, plan_batch
from dpo_lab.scoring.layouts.cost import ForwardCost

__all__ = [
    "ALL_LAYOUTS",
    "ForwardCost",
    "ForwardPass",
    "Layout",
    "LayoutPlan",
    "SharesPrompt",
    "SplitsHead",
    "forward_cost",
    "plan_batch",
]
