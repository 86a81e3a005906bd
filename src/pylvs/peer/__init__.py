"""The other director of a pair: it gets copies of connections over TLS, and both compare what they are configured for.

    pylvs run ── pylvs-peer (copier: root, BPF) ═══ pylvs-peer (carrier: no privileges, TLS) ── the other director

Each director opens a connection to the other one, and asks for all its connections, then for what changes. The copier
reads and writes the tables. The carrier alone handles bytes from the network, and checks each frame.
"""

# Makes a key, with the path of its file.
MAKE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj /CN=pylvs"
    " -keyout {path} -out {path}"
)
