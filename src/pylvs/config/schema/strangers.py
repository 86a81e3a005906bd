"""What to say of a word that a block does not know: where it belongs, or what was probably meant."""

from __future__ import annotations

from pylvs.config.schema.nouns import Block
from pylvs.config.schema.types import did_you_mean

NAMED = 4  # blocks that are named at most


def homes(root: Block, word: str) -> list[str]:
    """The names of the blocks that do know the word, without doubles, in the schema's order."""
    found = [block.name for block in root.blocks() if block.find(word) is not None]
    return list(dict.fromkeys(found))


def stranger(root: Block, block: Block, word: str) -> tuple[str, str]:
    """What is wrong and what to do, for a word that `block` does not know."""
    inside = f"in {block.name}" if block.name else "outside of all blocks"
    ignored = f"{word} is not known {inside} and is ignored"
    found = homes(root, word)
    if found:
        places = [name or "the top of the file" for name in found[:NAMED]]
        return ignored, f"it belongs into {' or '.join(places)}"
    near = did_you_mean(word, list(block.names()))
    if not near:
        everywhere = sorted({name for each in root.blocks() for name in each.names()})
        near = did_you_mean(word, everywhere)
    return ignored, near or "remove it"
