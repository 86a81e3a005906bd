"""The whole table at once: as a document, and from the kernel's IPVS and back to it."""
