//! What the server can do beyond the first version of the API. A name is here only when all of what it stands for works;
//! the comment beside it says what that is and where it is tested.

/// The names, in the order of their appearance in LXD and then Incus.
pub const EXTENSIONS: &[&str] = &[];
