"""keepalived's keywords as data: every block and keyword with its type, default and state.

The tables are `global_defs`, `virtual_server` and `vrrp`; `grammar` has their elements and reads a tree by them. The
modules of types parse the values.
"""
