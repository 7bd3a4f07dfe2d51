//! Links, addresses and packet filters of the host.
