//! A directory and a network namespace of a test's own, removed with all that lives in them.

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the names of our network namespaces begin with; the process that made one and a number follow.
const PREFIX: &str = "hutchtest";

/// Where sandboxes are: not below `/tmp`, which may be a file system in memory.
const PARENT: &str = "/var/tmp";

/// A place for one daemon. Dropping it ends every process that names the directory or lives in the network namespace, detaches what is
/// mounted below the directory and removes both.
#[derive(Debug)]
pub struct Sandbox {
    path: PathBuf,
    network: Option<String>,
}

impl Sandbox {
    /// Makes one with a network namespace of its own, in which only the loopback interface is up.
    ///
    /// # Errors
    /// When this is not root, or the directory or namespace can't be made.
    pub fn isolated() -> Result<Self> {
        let mut sandbox = Self::shared()?;
        let name = sandbox
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        must("ip", &["netns", "add", &name])?;
        sandbox.network = Some(name.clone());
        must("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        Ok(sandbox)
    }

    /// Makes one on the machine's own network, for what has to reach other machines or is compared with a peer there.
    ///
    /// # Errors
    /// When this is not root, or the directory can't be made.
    pub fn shared() -> Result<Self> {
        static SWEPT: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            bail!("these tests make containers, which takes root");
        }
        SWEPT.call_once(sweep);
        let name = format!(
            "{PREFIX}-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(PARENT).join(name);
        std::fs::create_dir(&path).with_context(|| format!("can't create {}", path.display()))?;
        Ok(Self { path, network: None })
    }

    /// The directory; everybody may pass through it and only root may list it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread into the sandbox's network, in which it stays.
    ///
    /// # Errors
    /// When the network is not there.
    pub fn enter_network(&self) -> Result<()> {
        let Some(network) = &self.network else { return Ok(()) };
        let place = format!("/run/netns/{network}");
        let file = std::fs::File::open(&place).with_context(|| format!("can't open {place}"))?;
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).with_context(|| format!("can't enter {place}"))
    }

    /// A command that will run in the network namespace, with the same process number as the one spawned.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let Some(network) = &self.network else {
            return Command::new(program);
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{network}"))
            .arg("--")
            .arg(program);
        command
    }

    /// The processes that belong to the sandbox: those whose command line or environment names the directory, those in its network namespace,
    /// and all their descendants.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let network = self
            .network
            .as_ref()
            .and_then(|name| std::fs::metadata(format!("/run/netns/{name}")).ok())
            .map(|found| std::os::unix::fs::MetadataExt::ino(&found));
        let needle = self.path.to_string_lossy().into_owned();
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let mut parents = HashMap::new();
        let mut found = Vec::new();
        for pid in all_processes() {
            if let Some(parent) = parent_of(pid) {
                parents.insert(pid, parent);
            }
            let named = ["cmdline", "environ"].iter().any(|file| {
                let words = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                String::from_utf8_lossy(&words)
                    .split('\0')
                    .any(|word| within(word, &needle))
            });
            let inside = network.is_some_and(|inode| {
                std::fs::read_link(format!("/proc/{pid}/ns/net"))
                    .is_ok_and(|link| link.to_string_lossy() == format!("net:[{inode}]"))
            });
            if pid != own && (named || inside) {
                found.push(pid);
            }
        }
        descendants(found, &parents)
    }

    /// The places below the directory where something is mounted, innermost first.
    #[must_use]
    pub fn mounts(&self) -> Vec<PathBuf> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut places: Vec<PathBuf> = text
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|place| place.starts_with(&self.path))
            .collect();
        places.reverse();
        places
    }

    /// The interfaces in the network namespace, without the loopback one; none for a shared sandbox.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn interfaces(&self) -> Result<Vec<String>> {
        let Some(network) = &self.network else {
            return Ok(Vec::new());
        };
        let listing = must("ip", &["-n", network, "-brief", "link", "show"])?;
        Ok(listing
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .filter(|name| name != "lo")
            .collect())
    }

    /// The tables of the packet filter in the network namespace; none for a shared sandbox.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn filter_tables(&self) -> Result<Vec<String>> {
        if self.network.is_none() {
            return Ok(Vec::new());
        }
        let output = self
            .command(Path::new("nft"))
            .args(["list", "tables"])
            .output()
            .context("can't run nft")?;
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    fn remove(&self) {
        let mut cgroups = BTreeSet::new();
        // Those that were about to be started by one that is ended now are found the next time round.
        for _ in 0..10 {
            let processes = self.processes();
            if processes.is_empty() {
                break;
            }
            for pid in &processes {
                cgroups.extend(cgroups_of(*pid));
                // One that has ended meanwhile is what was wanted.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            for pid in processes {
                wait_for_end(pid);
            }
        }
        for cgroup in cgroups {
            remove_cgroup(&cgroup);
        }
        for place in self.mounts() {
            if let Err(error) = umount2(&place, MntFlags::MNT_DETACH) {
                eprintln!("sandbox: can't detach {}: {error}", place.display());
            }
        }
        if let Some(network) = &self.network
            && let Err(error) = must("ip", &["netns", "delete", network])
        {
            eprintln!("sandbox: {error:#}");
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("sandbox: can't remove {}: {error}", self.path.display());
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::env::var_os("HUTCH_TEST_KEEP").is_some() {
            eprintln!("sandbox: kept as HUTCH_TEST_KEEP asks: {}", self.path.display());
            return;
        }
        self.remove();
    }
}

/// Whether a word of a command line names the directory itself or something below it.
fn within(word: &str, directory: &str) -> bool {
    word.match_indices(directory).any(|(at, _)| {
        matches!(
            word.as_bytes().get(at + directory.len()),
            None | Some(b'/' | b',' | b':')
        )
    })
}

fn all_processes() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The parent, from proc_pid_stat(5): the second field after the program's name, which ends with the last parenthesis.
fn parent_of(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn descendants(roots: Vec<i32>, parents: &HashMap<i32, i32>) -> Vec<i32> {
    let mut found = roots;
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        for (child, its_parent) in parents {
            if *its_parent == parent && !found.contains(child) {
                found.push(*child);
            }
        }
        at += 1;
    }
    found
}

/// The directories of the cgroups of containers that a process is in, or was put into by something in a container: the first two
/// components of their paths, `hutch/NAME` and the like. Those of the machine's own services are none of them.
fn cgroups_of(pid: i32) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        let Some(path) = line.splitn(3, ':').nth(2) else {
            continue;
        };
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let (Some("hutch"), Some(name)) = (parts.next(), parts.next()) else {
            continue;
        };
        let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else {
            continue;
        };
        let roots = hierarchies
            .flatten()
            .map(|entry| entry.path())
            .chain([PathBuf::from("/sys/fs/cgroup")]);
        found.extend(
            roots
                .map(|root| root.join("hutch").join(name))
                .filter(|directory| directory.is_dir()),
        );
    }
    found
}

/// Removes a cgroup and those below it. One in use refuses, which is right.
fn remove_cgroup(directory: &Path) {
    if let Ok(entries) = std::fs::read_dir(directory) {
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            remove_cgroup(&entry.path());
        }
    }
    // It may be gone already through another hierarchy's name.
    let _ = std::fs::remove_dir(directory);
}

/// Waits until a process that was killed is gone. A zombie has ended, whoever is to reap it.
fn wait_for_end(pid: i32) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(5) {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(text)
                if !text
                    .rsplit_once(')')
                    .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')) => {}
            _ => return,
        }
        // Only a parent can wait for a process.
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Removes the sandboxes of test programs that were killed.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(PARENT) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(maker) = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.trim_start_matches('-').split('-').next())
        else {
            continue;
        };
        if maker
            .parse::<u32>()
            .is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
        {
            continue;
        }
        let network = Path::new("/run/netns").join(&name).exists().then(|| name.clone());
        Sandbox {
            path: entry.path(),
            network,
        }
        .remove();
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// When it can't be run or fails; the message carries what it wrote to standard error.
pub fn must(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("can't run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_not_confused_with_its_neighbour() {
        assert!(within("/var/tmp/x-1", "/var/tmp/x-1"));
        assert!(within("--state-dir=/var/tmp/x-1/state", "/var/tmp/x-1"));
        assert!(!within("/var/tmp/x-12", "/var/tmp/x-1"));
    }

    #[test]
    fn descendants_are_found_through_generations() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (9, 8)]);
        let mut found = descendants(vec![2], &parents);
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4]);
    }
}
