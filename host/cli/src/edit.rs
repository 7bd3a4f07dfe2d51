//! Asking the user.

use std::io::{self, BufRead, Write};

use crate::error::{Error, Result};

/// Asks a question whose answer is yes or no; without an answer it is no.
pub(crate) fn confirm(question: &str) -> Result<bool> {
    let failed = |source| Error::io("cannot ask", source);
    let mut answer = String::new();
    eprint!("{question} (yes/no) [no]: ");
    io::stderr().flush().map_err(failed)?;
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}
