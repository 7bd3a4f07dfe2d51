//! What a container is, and the client of its keeper.
