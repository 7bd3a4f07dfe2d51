//! `lab`: a command in a virtual machine whose kernel has what this machine's may lack.

use crate::{kernel, run};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What `lab` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The kernel image to boot, with 9p and virtio built in; without one, it is built from Debian's source, once
    #[arg(long, env = "HUTCH_LAB_KERNEL", value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// How much memory the machine has
    #[arg(long, default_value = "3G")]
    pub(crate) memory: String,
    /// How many processors it has
    #[arg(long, default_value_t = 2)]
    pub(crate) cpus: u32,
    /// Use KVM; without it the machine is emulated, which is 10 to 20 times slower and works everywhere
    #[arg(long)]
    pub(crate) kvm: bool,
    /// The command and its arguments; it runs as root in the current directory
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

/// Runs the command in the machine. The machine sees this one's files; what it writes is thrown away.
///
/// # Errors
/// When the machine can't be booted or the command fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    if run::find("vng").is_none() || run::find("qemu-system-x86_64").is_none() {
        bail!("the lab needs virtme-ng and QEMU: apt-get install qemu-system-x86, pip install virtme-ng");
    }
    let kernel = match &options.kernel {
        Some(given) if given.is_file() => given.clone(),
        Some(given) => bail!("there is no kernel at {}", given.display()),
        None => kernel::ensure()?,
    };
    let script = script(&options.command)?;
    // What the machine monitor itself returns tells nothing: without a terminal it can't hear of the command's end.
    let ran = machine(options, &kernel, &script).output();
    let status = std::fs::read_to_string(script.with_extension("status"));
    for (file, out) in [
        ("stdout", &mut std::io::stdout() as &mut dyn Write),
        ("stderr", &mut std::io::stderr()),
    ] {
        // A command that did not run has written nothing.
        let text = std::fs::read(script.with_extension(file)).unwrap_or_default();
        out.write_all(&text).context("can't print what the command wrote")?;
    }
    if let Some(folder) = script.parent() {
        std::fs::remove_dir_all(folder).with_context(|| format!("can't remove {}", folder.display()))?;
    }
    let ran = ran.context("can't run vng")?;
    match status.as_deref().map(str::trim) {
        Ok("0") => Ok(()),
        Ok(status) => bail!("the command in the lab ended with status {status}"),
        Err(_) => bail!(
            "the lab ended before its command did ({}): {}",
            ran.status,
            String::from_utf8_lossy(&ran.stderr).trim()
        ),
    }
}

fn machine(options: &Options, kernel: &Path, script: &Path) -> std::process::Command {
    let shared = script.parent().unwrap_or(script).display();
    let accelerator = if options.kvm {
        "-accel kvm"
    } else {
        "-accel tcg,thread=single"
    };
    let mut command = run::program("vng", ["--run"]);
    command.arg(kernel).args([
        "--force-9p",
        "--disable-microvm",
        "--user",
        "root",
        "--memory",
        &options.memory,
    ]);
    if !options.kvm {
        command.arg("--disable-kvm");
    }
    command
        .stdin(Stdio::null())
        .arg(format!("--rwdir={shared}={shared}"))
        .arg(format!("--qemu-opts={accelerator} -cpu max -smp {}", options.cpus))
        .arg("--exec")
        .arg(script);
    command
}

/// Writes what the machine runs into a directory of its own, where the command's status will be left, too.
fn script(command: &[String]) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("hutch-lab-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    let script = folder.join("command");
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let place = std::env::current_dir().context("can't tell the current directory")?;
    let text = format!(
        "#!/bin/sh\nmount -t tmpfs tmpfs /run\nip link set lo up\nexport PATH={path} LAB=1\ncd {place}\n{line} > {out} 2> {err}\necho $? > {status}\nsync\n",
        path = quoted(&std::env::var("PATH").unwrap_or_default()),
        place = quoted(&place.to_string_lossy()),
        line = words.join(" "),
        out = quoted(&script.with_extension("stdout").to_string_lossy()),
        err = quoted(&script.with_extension("stderr").to_string_lossy()),
        status = quoted(&script.with_extension("status").to_string_lossy()),
    );
    std::fs::write(&script, text).with_context(|| format!("can't write {}", script.display()))?;
    run::output(&mut run::program("chmod", ["0755".as_ref(), script.as_os_str()]))?;
    Ok(script)
}

/// A word as a shell reads it back unchanged.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("plain"), "'plain'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
    }
}
