"""keepalived's keywords as data: every block and keyword with its type, default and state.

The tables are `global_defs`, `virtual_server`, `checkers`, `vrrp` and `root`. The modules of types parse their values.
"""
