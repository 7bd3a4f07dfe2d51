//! Running a program inside a container that runs.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::spec::{BadSpec, check_environment, check_file_name, check_strings};

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// Names the process for [`crate::Keeper::exec_result`], also after a restart of the daemon; 1 to 64 bytes as a
    /// container's id. An operation's UUID is a good one.
    pub id: String,
    /// Program and arguments. A program without a slash is looked up in `PATH` of `env`, inside the container.
    pub command: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// Working directory inside; when it is `None`, the one that `HOME` names in `env`, and `/` where that can't be entered.
    pub cwd: Option<String>,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary group ids inside.
    pub groups: Vec<u32>,
}

/// Where the program's standard streams go.
#[derive(Debug)]
pub enum ExecStdio {
    /// To these descriptors, which the program gets as its own 0, 1 and 2.
    Pipes {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// To a new pseudo-terminal of the container, which becomes the controlling terminal.
    Pty {
        /// Columns; 0 when unknown.
        cols: u16,
        /// Rows; 0 when unknown.
        rows: u16,
    },
}

/// Most bytes that command and environment of one [`ExecSpec`] may have together, encoded.
pub const MAX_EXEC_BYTES: usize = 96 * 1024;

impl ExecSpec {
    /// Checks what can be checked without touching the system.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), BadSpec> {
        check_file_name("exec id", &self.id)?;
        if self.command.first().is_none_or(String::is_empty) {
            return Err(BadSpec("the command is empty".to_owned()));
        }
        check_strings("command", self.command.iter().chain(&self.cwd).map(String::as_str))?;
        check_environment(&self.env)?;
        let bytes: usize = self.command.iter().map(|word| word.len() + 3).sum::<usize>()
            + self
                .env
                .iter()
                .map(|(name, value)| name.len() + value.len() + 8)
                .sum::<usize>();
        if bytes > MAX_EXEC_BYTES {
            return Err(BadSpec(format!(
                "command and environment are {bytes} bytes, over {MAX_EXEC_BYTES}"
            )));
        }
        Ok(())
    }
}
