"""Write completions of bash, zsh and fish for all commands: `python -m tools.completion FOLDER`.

Runs when the wheel is built. Those of `pylvs` are click's, which ask `pylvs` itself. Those of `ipvsadm` are made from
its table of options and its help. ipvsadm-save and ipvsadm-restore have one option each.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from click.shell_completion import get_completion_class

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.cli.group import pylvs
from pylvs.ipvsadm.helptext import HELP
from pylvs.ipvsadm.options import OPTIONS, Takes

# Where each shell looks below share/.
FILES = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}


# The option of each, as fish names it, and its meaning.
_SCRIPTS = {
    "ipvsadm-save": ("-n", "-s n", "numeric output of addresses and ports"),
    "ipvsadm-restore": ("--hint", "-l hint", "print hints without a terminal too"),
}


def of_pylvs(shell: str) -> str:
    """Return click's script for a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(pylvs, {}, "pylvs", "_PYLVS_COMPLETE")
    return made.source_template % made.source_vars()


def _meaning(long: str) -> str:
    """Return what the help says of an option, "" if nothing."""
    found = re.search(rf"^  --{re.escape(long)} .*$", HELP, re.MULTILINE)
    return re.split(r"\s{2,}", found[0])[-1].rstrip(",") if found else ""


def _values(long: str) -> list[str]:
    """Return the schedulers, or the values that the help lists for an option: `one of ipip|gue`, `{master|backup}`."""
    if long == "scheduler":  # the help has those of ipvsadm 1.31
        return list(SCHEDULERS)
    found = re.search(rf"--{re.escape(long)}\b.*?(?:one of |{{)([\w|]+)", HELP)
    return found[1].split("|") if found else []


def _long_options() -> dict[str, tuple[str, int]]:
    """Return each long option with its letters, and whether it takes a value."""
    found: dict[str, tuple[str, int]] = {}
    for option in OPTIONS:
        letters, _ = found.get(option.long, ("", 0))
        found[option.long] = letters + option.short, option.takes
    return found


def of_ipvsadm(shell: str) -> str:
    """Return the script for a shell."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _bash() -> str:
    words = " ".join(f"--{long}" for long in _long_options())
    cases = ""
    for long, (letters, takes) in _long_options().items():
        if takes == Takes.VALUE:
            names = "|".join([f"--{long}", *(f"-{letter}" for letter in letters)])
            cases += f"        {names}) COMPREPLY=($(compgen -W '{' '.join(_values(long))}' -- \"$word\")); return ;;\n"
    return f"""# bash completion for ipvsadm
_ipvsadm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}}
    case ${{COMP_WORDS[COMP_CWORD-1]}} in
{cases}    esac
    COMPREPLY=($(compgen -W '{words}' -- "$word"))
}}
complete -F _ipvsadm ipvsadm
"""


def _zsh() -> str:
    lines = []
    for long, (letters, takes) in _long_options().items():
        value = "" if takes != Takes.VALUE else f":{long}:({' '.join(_values(long))})"
        text = re.sub(r"[\[\]':]", " ", _meaning(long))
        lines += [f"    '{name}[{text}]{value}'" for name in (f"--{long}", *(f"-{letter}" for letter in letters))]
    return "#compdef ipvsadm\n_arguments -s \\\n" + " \\\n".join(lines) + "\n"


def _fish() -> str:
    lines = ["# fish completion for ipvsadm", "complete -c ipvsadm -f"]
    for long, (letters, takes) in _long_options().items():
        short = "".join(f" -s {letter}" for letter in letters)
        value = f" -x -a '{' '.join(_values(long))}'" if takes == Takes.VALUE else ""
        lines.append(f"complete -c ipvsadm{short} -l {long}{value} -d '{_meaning(long)}'")
    return "\n".join(lines) + "\n"


def of_script(program: str, shell: str) -> str:
    """Return the script for ipvsadm-save or ipvsadm-restore. Bash completes files too, for `>` and `<`."""
    option, fish, meaning = _SCRIPTS[program]
    return {
        "bash": f"complete -o default -W '{option}' {program}\n",
        "zsh": f"#compdef {program}\n_arguments '{option}[{meaning}]'\n",
        "fish": f"complete -c {program} -f {fish} -d '{meaning}'\n",
    }[shell]


def write(folder: Path) -> list[Path]:
    """Write all scripts below a folder that becomes share/, and return their paths."""
    written = []
    for shell, pattern in FILES.items():
        texts = {"pylvs": of_pylvs(shell), "ipvsadm": of_ipvsadm(shell)}
        texts |= {program: of_script(program, shell) for program in _SCRIPTS}
        for program, text in texts.items():
            path = folder / pattern.format(program)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            written.append(path)
    return sorted(written)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
