"""What to say of a word that a block does not know: where it belongs, or what was probably meant."""

from __future__ import annotations

from pylvs.config.schema.nouns import Block
from pylvs.config.schema.types import did_you_mean

MOST_BLOCKS_NAMED = 4  # blocks that are named at most


def blocks_with(root: Block, word: str, beside: Block | None = None) -> list[str]:
    """The names of the blocks that do know the word, without doubles, in the schema's order.

    With `beside`, only of those that stand in the same block at the top of the file.
    """
    tops = [top for top in root.entries if isinstance(top, Block)]
    if beside is not None:
        tops = [top for top in tops if any(block is beside for block in top.blocks())]
    blocks = [root] if beside is None else []
    found = [block.name for block in (*blocks, *(block for top in tops for block in top.blocks())) if block.find(word)]
    return list(dict.fromkeys(found))


def unknown_keyword(root: Block, block: Block, word: str) -> tuple[str, str]:
    """What is wrong and what to do, for a word that `block` does not know."""
    inside = f"in {block.name}" if block.name else "outside of all blocks"
    ignored = f"{word} is not known {inside} and is ignored"
    found = blocks_with(root, word, block if block is not root else None)
    near = "" if found else did_you_mean(word, list(block.names()))
    if not near:
        found = found or blocks_with(root, word)
    if found:
        places = [name or "the top of the file" for name in found[:MOST_BLOCKS_NAMED]]
        return ignored, f"it belongs into {' or '.join(places)}"
    if not near:
        everywhere = sorted({name for each in root.blocks() for name in each.names()})
        near = did_you_mean(word, everywhere)
    return ignored, near or "remove it"
