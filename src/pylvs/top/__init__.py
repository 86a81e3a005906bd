"""`pylvs top`: a live console of services and servers. `start` reads once and opens it; `app` alone needs Textual."""
