//! Asking the user: questions, and texts in the editor.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::process::Command;

use rustix::fs::FileType;

use crate::error::{Error, Result, report};
use crate::terminal;

/// Asks a question, and returns the answer or what it is without one. Where nobody answers any more, that is [`Error::NoAnswer`].
pub(crate) fn ask(question: &str, default: &str) -> Result<String> {
    let failed = |source| Error::io("cannot ask", source);
    let mut answer = String::new();
    eprint!("{question} [{default}]: ");
    io::stderr().flush().map_err(failed)?;
    if io::stdin().lock().read_line(&mut answer).map_err(failed)? == 0 {
        // What comes next is not on the question's line.
        eprintln!();
        return Err(Error::NoAnswer);
    }
    let answer = answer.trim();
    Ok(if answer.is_empty() {
        default.into()
    } else {
        answer.into()
    })
}

/// Asks a question until `read` can take the answer. Why it can't is said before it is asked again.
pub(crate) fn ask_until<T>(
    question: &str,
    default: &str,
    read: impl Fn(&str) -> std::result::Result<T, String>,
) -> Result<T> {
    loop {
        match read(&ask(question, default)?) {
            Ok(answer) => return Ok(answer),
            Err(reason) => eprintln!("{reason}"),
        }
    }
}

/// Asks a question whose answer is yes or no; without an answer it is no.
pub(crate) fn confirm(question: &str) -> Result<bool> {
    ask_until(&format!("{question} (yes/no)"), "no", |answer| {
        match answer.to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(true),
            "n" | "no" => Ok(false),
            _ => Err(format!("{answer:?} is neither yes nor no")),
        }
    })
}

/// What standard input says, if it is not a terminal.
pub(crate) fn piped() -> Result<Option<String>> {
    if terminal::stdin_is_terminal() {
        return Ok(None);
    }
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|source| Error::io("cannot read standard input", source))?;
    Ok(Some(text))
}

/// What standard input says, if it is a file or a pipe: other things, such as `/dev/null` or what a service's standard input
/// is, were not given to be read.
pub(crate) fn piped_file() -> Result<Option<String>> {
    let kind = rustix::fs::fstat(io::stdin()).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if !matches!(kind, Ok(FileType::RegularFile | FileType::Fifo)) {
        return Ok(None);
    }
    Ok(piped()?.filter(|text| !text.trim().is_empty()))
}

/// Opens `text` in the user's editor and applies what came of it; where that fails, the user may go on editing.
pub(crate) async fn until_it_works(text: &str, apply: impl AsyncFn(&str) -> Result<()>) -> Result<()> {
    let failed = |source| Error::io("cannot make a file to edit", source);
    let file = tempfile::Builder::new()
        .prefix("hutch-")
        .suffix(".yaml")
        .tempfile()
        .map_err(failed)?;
    std::fs::write(file.path(), text).map_err(failed)?;
    loop {
        open_editor(file.path())?;
        // Read again by its name: editors replace the file.
        let edited =
            std::fs::read_to_string(file.path()).map_err(|source| Error::file("cannot read", file.path(), source))?;
        if edited == text {
            return Ok(());
        }
        match apply(&edited).await {
            Err(error @ (Error::Connect { .. } | Error::Http(_))) => return Err(error),
            Err(error) => {
                eprintln!("Error: {}", report(&error));
                if ask("Edit it again? (yes/no)", "yes")?.starts_with('n') {
                    return Err(Error::usage("nothing was changed"));
                }
            }
            Ok(()) => return Ok(()),
        }
    }
}

fn open_editor(path: &Path) -> Result<()> {
    let set = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.trim().is_empty())
    };
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".into());
    // The variables hold a command with arguments, as sh would take it.
    let status = Command::new("sh")
        .args(["-c", &format!("exec {editor} \"$1\""), "sh"])
        .arg(path)
        .status()
        .map_err(|source| Error::io(format!("cannot start the editor {editor:?}"), source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::usage(format!(
        "the editor {editor:?} failed ({status}); VISUAL or EDITOR names another one"
    )))
}
