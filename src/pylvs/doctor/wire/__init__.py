"""Questions on the wire: frames that a probe sends, and what comes back."""
