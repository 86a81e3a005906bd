"""Find out where closing braces are missing: where a statement belongs to a block around the one it is in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from pylvs.config.language.tree import Findings, Node
from pylvs.config.schema.grammar import Block
from pylvs.model.dataclass import dataclass, field, replace


def with_missing_braces(root: Block, nodes: tuple[Node, ...], findings: Findings) -> tuple[Node, ...]:
    """Return the statements with each missing brace inserted where a keyword needs it, and report these places.

    Only a document with an unclosed block is changed; it has a fatal finding already.
    """
    if not nodes or nodes[-1].closed:
        return nodes
    closed, _ = _Closer(findings, _unclosed(nodes)).statements((root,), (), nodes)
    return tuple(closed)


def _unclosed(nodes: Sequence[Node]) -> int:
    """Return how many blocks the end of the file ended: each is the last one of the one around it."""
    count = 0
    while nodes and not nodes[-1].closed:
        count, nodes = count + 1, nodes[-1].block or ()
    return count


@dataclass(slots=True)
class _Closer:
    findings: Findings
    missing: int  # braces whose place is not reported yet; with all others, the blocks around end early
    reported: set[int] = field(default_factory=set)  # keywords, by identity

    def statements(
        self, blocks: tuple[Block, ...], opened: tuple[Node, ...], nodes: Sequence[Node]
    ) -> tuple[list[Node], list[Node]]:
        """Return the statements of the last of these blocks, and those that belong to a block around it.

        The first one of `blocks` is the document; the others are those of the statements `opened`.
        """
        own: list[Node] = []
        pending = deque(nodes)
        while pending:
            node = pending.popleft()
            entry = blocks[-1].find(node.keyword)
            if entry is None and self._ends_blocks(blocks, opened, node):
                return own, [node, *pending]
            if isinstance(entry, Block) and node.block:
                inside, behind = self.statements((*blocks, entry), (*opened, node), node.block)
                node = replace(node, block=tuple(inside))
                pending.extendleft(reversed(behind))
            own.append(node)
        return own, []

    def _ends_blocks(self, blocks: tuple[Block, ...], opened: tuple[Node, ...], node: Node) -> bool:
        """Return whether an unknown keyword belongs to a block around an unclosed one; report that once."""
        if all(each.closed for each in opened):
            return False
        holder = next((at for at in range(len(blocks) - 2, -1, -1) if blocks[at].find(node.keyword)), -1)
        if holder < 0:
            return False
        if self.missing > 0 and id(node) not in self.reported:
            self.reported.add(id(node))
            lacking = opened[holder:][::-1]
            self.missing -= len(lacking)
            names = " and ".join(f"{each.keyword} ({each.location.line_for(node.location)})" for each in lacking)
            text = f"{node.keyword} does not belong in {lacking[0].keyword}: the '}}' of {names} is missing before it"
            self.findings.error(node.location, text, f"write {'} ' * len(lacking)}before this line")
        return True
