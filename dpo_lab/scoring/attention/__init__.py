"""Attention for a packed row: several prompts, each followed by its candidates, run as one sequence without padding.

A prompt with its candidates is a tree: a candidate sees its prompt and itself, and no other candidate (a row of two trees,
the first with candidates a and b, the second with c):

            P P P a a b b Q Q c c         # seen, . not seen
        P   # . . . . . . . . . .
        P   # # . . . . . . . . .
        P   # # # . . . . . . . .         first text:  P P P a a     causal, one triangle
        a   # # # # . . . . . . .
        a   # # # # # . . . . . .
        b   # # # . . # . . . . .         candidate b: its prompt    a rectangle
        b   # # # . . # # . . . .                      and itself    a triangle
        Q   . . . . . . . # . . .
        Q   . . . . . . . # # . .         next text:   Q Q c c
        c   . . . . . . . # # # .
        c   . . . . . . . # # # #

Only the marked blocks are computed; no mask of the row's square exists. A rectangle and a triangle are joined exactly, by the
log-sum-exps of their scores.

    sdpa_override   replaces `scaled_dot_product_attention` while a model runs, whatever model it is
    prefix_tree     where the prompts and candidates of a row are
    tree_attention  the attention as one PyTorch operation, with its gradient
    blockwise       its parts on a CPU, and on CUDA in float32: one kernel call a block
    varlen          its parts on CUDA in half precision: FlashAttention over all texts at once
    kernels         the private PyTorch operations that those two call, and the check that they are as expected
    masked          the same by public attention and masks: exact, slower, wherever kernels are missing
"""

from dpo_lab.scoring.attention.prefix_tree import PackedRow, PrefixTree
from dpo_lab.scoring.attention.sdpa_override import recomputation_context, with_tree_attention

__all__ = ["PackedRow", "PrefixTree", "recomputation_context", "with_tree_attention"]
