"""Random texts of blocks with conditions, variables and sequences on any line, for a comparison with keepalived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

# The tests call the machine "me". Two conditions on one line are an unknown word.
CONDITIONS = ("@me ", "@no ", "@^me ", "@^no ")
SEVERAL_CONDITIONS = ("@me @no ", "@^no @me ", "@no @me ")
SEQUENCES = ("~SEQ(N,1,2) ", "~LST(N,a,b) ", "@me ~SEQ(N,3,2) ", "~SEQ(N,1,2) @no ", "~SEQ(N,1,2) ~LST(M,a,b) ")
ENDINGS = ("", "", "", "  # x", " ! @no {", "\r")
CONTINUED = (" \\", " \\", " \\  # x", "\\")
# Each block: its head, the blocks that may be in it, and a keyword that only it knows.
BLOCKS = {
    "top": ("", ("virtual_server", "vrrp_instance"), ""),
    "virtual_server": ("virtual_server 10.0.0.{n} 80", ("real_server",), "quorum 1"),
    "real_server": ("real_server 10.0.1.{n} 80", ("TCP_CHECK", "SMTP_CHECK"), "uthreshold 5"),
    "TCP_CHECK": ("TCP_CHECK", (), "connect_ip 10.0.0.9"),
    "SMTP_CHECK": ("SMTP_CHECK", (), "helo_name x"),
    "vrrp_instance": ("vrrp_instance V{n}", (), "priority 7"),
}
KEYWORDS = tuple(keyword for _, _, keyword in BLOCKS.values() if keyword)


@dataclass(slots=True)
class Texts:
    """Makes one text after the other, as `random` decides."""

    random: Random
    count: int = 0
    single: list[str] = field(default_factory=list)  # the variables of one line so far
    several: list[str] = field(default_factory=list)  # and those of several lines

    def text(self) -> str:
        self.count, self.single, self.several = 0, [], []
        lines: list[str] = []
        for _ in range(self.random.randint(2, 5)):
            lines += self._definition(2) if self._chance(0.5) else ()
            lines += self._piece("top", 4)
        return "\n".join(lines) + "\n"

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _name(self) -> str:
        self.count += 1
        return f"w{self.count}"

    def _statement(self) -> str:
        """Return an unknown word, a variable, or a keyword that one block knows."""
        drawn = self.random.random()
        if drawn < 0.4:
            return self._name()
        if drawn < 0.6 and self.single:
            return self.random.choice(tuple(self._variables()))
        return self.random.choice(KEYWORDS)

    def _variables(self) -> Iterator[str]:
        one, other = self.random.choice(self.single), self.random.choice(self.single)
        yield f"{self._name()}${{{one}}}"
        yield f"${one}"
        yield f"${one} ${other} {self._name()}"
        if self.several:
            yield f"${self.random.choice(self.several)}"
            yield f"${one} ${self.random.choice(self.several)}"

    def _prefix(self) -> str:
        """Return what may be before a statement."""
        drawn = self.random.random()
        if drawn < 0.25:
            return self.random.choice((*CONDITIONS, *CONDITIONS, *SEVERAL_CONDITIONS))
        if drawn < 0.35:
            self.single.append("N")
            return self.random.choice(SEQUENCES)
        return ""

    def _piece(self, where: str, depth: int) -> list[str]:
        """Return lines that may be in this block."""
        below = BLOCKS[where][1]
        if self._chance(0.1):
            return self._definition(depth)
        if below and depth and self._chance(0.6):
            return self._block(self.random.choice(below), depth - 1)
        return [self._prefix() + self._statement() + self.random.choice(ENDINGS)]

    def _block(self, kind: str, depth: int) -> list[str]:
        """Return a block with its braces on any line, each with a condition or not."""
        self.count += 1
        head = BLOCKS[kind][0].format(n=self.count % 250 + 1)
        inside = [line for _ in range(self.random.randint(0, 3)) for line in self._piece(kind, depth)]
        style, condition = self.random.random(), self.random.choice((*CONDITIONS, "", "", ""))
        if style < 0.25:  # every line has the condition
            return [f"{condition}{head} {{", *_under(condition, inside), f"{condition}}}"]
        if style < 0.5:  # only the braces have it
            return [f"{condition}{head} {{", *inside, f"{condition}}}"]
        if style < 0.65:
            return [f"{condition}{head}", f"{condition}{{", *inside, f"{condition}}}"]
        if style < 0.8 and len(inside) == 1 and inside[0][:1] not in "@~$":
            return [f"{self._prefix()}{head} {{ {_bare(inside[0])} }}"]
        if style < 0.9:  # the condition is behind the brace, and excludes only what follows there
            return [f"{head} {{ {self._prefix()}{self._statement()}", *inside, "}"]
        return [f"{head} {{", *inside, self.random.choice(("", "  ", "  # none")), "}"]

    def _definition(self, depth: int) -> list[str]:
        """Return the definition of a variable of one line or several."""
        self.count += 1
        name, condition = f"V{self.count}", self.random.choice(("", "", "", "@me ", "@^no "))
        if depth < 2 or self._chance(0.5):
            word = self._name()
            values = ("~SEQ(N,1,2)", "~LST(N,c,d)", "@no", "@me", f"@no {word}", "${N}", "$N=7", f"{word} {{", "}", "")
            self.single.append(name)
            return [f"{condition}${name}={self.random.choice((word, f'{word} # x', *values))}"]
        inside = self._block(self.random.choice(("virtual_server", "vrrp_instance", "real_server")), 2)
        if any(line.endswith(("\\", "=")) for line in map(_bare, inside)):
            return [self._name()]  # a definition within another one has one line
        self.several.append(name)
        *before, last = inside
        return [f"{condition}${name}= \\", *(_bare(line) + self.random.choice(CONTINUED) for line in before), last]


def _under(condition: str, lines: list[str]) -> list[str]:
    """Return the lines with the condition, but those that begin with another one, or with a definition."""
    return [f"{condition}{line}" if line[:1] not in "@~$" else line for line in lines]


def _bare(line: str) -> str:
    """Return the line without its comment."""
    return line.split("#")[0].split("!")[0].rstrip()
