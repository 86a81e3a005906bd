"""What the command says instead of doing something, and how it then ends."""

from __future__ import annotations

EXIT_ARGUMENTS = 2  # arguments that make no sense
EXIT_REFUSED = 255  # what the tables refuse, and words that are no options
EXIT_LISTING = 1  # a listing of something that is not there, or that could not be written


class Complaint(Exception):
    """One message for stderr with an exit status; `final` ends a restore at this line, otherwise it goes on."""

    def __init__(self, text: str, status: int = EXIT_ARGUMENTS, *, final: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.final = final


def try_help() -> Complaint:
    """The answer to a command line that does not begin with a command."""
    return Complaint("Try `ipvsadm -h' or 'ipvsadm --help' for more information.", EXIT_REFUSED)


def not_understood(word: str, problem: str) -> Complaint:
    """The answer to a word that is no option, or an option without its value."""
    return Complaint(f"{word}: {problem}", EXIT_REFUSED, final=False)
