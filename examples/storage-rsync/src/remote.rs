//! The other machine: its address, the commands that reach it, and what their failures mean.

use hutch_sdk::storage::PoolRef;
use hutch_sdk::{Error, Host, Options, Result, TreePath};

/// The option with the address.
pub const OPTION: &str = "rsync.remote";

/// How long a connection may take, and how long nothing may come over one, in seconds; and what is small is sent at once. (rsync says
/// little and waits for an answer: without that, each end of it waits 40 ms for the other one's acknowledgement, several times.)
const CONNECTION: [&str; 3] = ["--contimeout=10", "--timeout=60", "--sockopts=TCP_NODELAY"];

/// A file is taken for unchanged if its size and its time are the same, to the nanosecond: whole seconds, which rsync compares by
/// itself, are long.
const EXACT: &str = "--modify-window=-1";

/// Where a pool lies on the other machine.
pub struct Remote {
    /// What the option says, without a slash at its end.
    parent: String,
    /// The directory of the pool below it.
    pool: String,
}

impl Remote {
    /// That of a pool.
    pub fn of(pool: &PoolRef) -> Result<Self> {
        let options = Options::new(&pool.config);
        let parent = check(options.get(OPTION))?;
        // It becomes a part of an address and of a pattern.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if pool.name.is_empty() || pool.name.starts_with('.') || !pool.name.bytes().all(plain) {
            return Err(Error::invalid(format!("{:?} can't be the name of a pool", pool.name)));
        }
        Ok(Self {
            parent: parent.to_owned(),
            pool: pool.name.clone(),
        })
    }

    /// The pool's address, for people.
    pub fn address(&self) -> String {
        format!("{}/{}", self.parent, self.pool)
    }

    fn volume(&self, id: &str) -> String {
        format!("{}/volumes/{id}/", self.address())
    }

    /// Sends the tree `from` as the tree `number` of a volume. Files that are in `one` or `other` already become links.
    pub fn send(&self, host: &impl Host, from: &TreePath, id: &str, number: u32, links: [u32; 2]) -> Result<()> {
        let links = links.map(|to| format!("--link-dest=../tree-{to}"));
        let to = format!("{}tree-{number}/", self.volume(id));
        let args = ["-aHAX", "--numeric-ids", EXACT, &links[0], &links[1]];
        self.run(host, &args, ["{tree:0}/", &to], from).map(|_| ())
    }

    /// Brings the tree `number` of a volume to the directory `to`, which is that afterwards and nothing more.
    pub fn fetch(&self, host: &impl Host, id: &str, number: u32, to: &TreePath) -> Result<()> {
        let from = format!("{}tree-{number}/", self.volume(id));
        let args = ["-aHAX", "--numeric-ids", EXACT, "--delete"];
        self.run(host, &args, [&from, "{tree:0}/"], to).map(|_| ())
    }

    /// Sends what is in `about` of the volume's directory here, and removes all there but what the patterns in its file `keep` name.
    pub fn tell(&self, host: &impl Host, home: &TreePath, id: &str) -> Result<()> {
        let args = ["-rc", "--delete", "--exclude-from={tree:0}/keep"];
        self.run(host, &args, ["{tree:0}/about/", &self.volume(id)], home)
            .map(|_| ())
    }

    /// Removes volumes. `work` is a directory for what rsync has to read.
    pub fn remove(&self, host: &impl Host, work: &TreePath, ids: &[String]) -> Result<()> {
        self.clear(host, work, &format!("{}/volumes/", self.address()), ids)
    }

    /// Removes the pool.
    pub fn remove_pool(&self, host: &impl Host, work: &TreePath) -> Result<()> {
        self.clear(
            host,
            work,
            &format!("{}/", self.parent),
            std::slice::from_ref(&self.pool),
        )
    }

    /// Makes a directory lack these entries: an empty one is sent with everything else left out of sight.
    fn clear(&self, host: &impl Host, work: &TreePath, at: &str, names: &[String]) -> Result<()> {
        let gone: String = names.iter().map(|name| format!("/{name}/***\n")).collect();
        host.fs_make_dir(&work.join("empty"), 0o700)?;
        host.fs_write_file(&work.join("gone"), gone.as_bytes(), 0o600)?;
        let args = ["-r", "--delete", "--include-from={tree:0}/gone", "--exclude=*"];
        self.run(host, &args, ["{tree:0}/empty/", at], work).map(|_| ())
    }

    /// Sends what a new pool is made of, which is in `from`.
    pub fn make(&self, host: &impl Host, from: &TreePath) -> Result<()> {
        let to = format!("{}/", self.address());
        self.run(host, &["-rc"], ["{tree:0}/", &to], from).map(|_| ())
    }

    /// Whether there is anything in the pool's directory.
    pub fn holds_something(&self, host: &impl Host) -> Result<bool> {
        let mut args = vec!["--list-only".to_owned()];
        args.extend(CONNECTION.map(str::to_owned));
        args.push(format!("{}/", self.address()));
        match self.checked(host.command_run("rsync", &args, &[], &[])?) {
            // The directory itself is listed, too, as a dot.
            Ok(listing) => Ok(listing.lines().any(|line| !line.ends_with(" ."))),
            Err(error) if error.is("not-found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Brings the pool's note into the directory `to`; `false` where there is none.
    pub fn fetch_note(&self, host: &impl Host, to: &TreePath) -> Result<bool> {
        let from = format!("{}/pool.json", self.address());
        match self.run(host, &["-c"], [&from, "{tree:0}/"], to) {
            Ok(_) => Ok(true),
            Err(error) if error.is("not-found") => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn run(&self, host: &impl Host, args: &[&str], ends: [&str; 2], tree: &TreePath) -> Result<String> {
        let args: Vec<String> = args
            .iter()
            .chain(&CONNECTION)
            .chain(&ends)
            .map(|arg| (*arg).to_owned())
            .collect();
        self.checked(host.command_run("rsync", &args, &[], std::slice::from_ref(tree))?)
    }

    /// What it printed, or what its exit status means (rsync(1), "EXIT VALUES").
    fn checked(&self, output: hutch_sdk::host::CommandOutput) -> Result<String> {
        if output.status == 0 {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let address = self.address();
        let why = said
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with("rsync error:"))
            .unwrap_or("it says nothing");
        Err(match output.status {
            // The daemon refuses or lacks the module, the connection fails or breaks, or nothing comes over it.
            5 | 10 | 12 | 30 | 35 => Error::unavailable(format!("can't reach {address}: {why}")).retryable(),
            _ if said.contains("No space left on device") || said.contains("Disk quota exceeded") => {
                Error::new("no-space", format!("{address} is full: {why}"))
            }
            23 if said.contains("No such file or directory") => Error::not_found(format!("{address}: {why}")),
            status => Error::io(format!("rsync with {address} failed with the status {status}: {why}")),
        })
    }
}

/// Checks an address and takes the slashes off its end.
pub fn check(address: Option<&str>) -> Result<&str> {
    let address = address.ok_or_else(|| Error::invalid(format!("a pool needs the option {OPTION:?}")))?;
    let wrong = |why: &str| {
        Error::invalid(format!(
            "invalid value for {OPTION:?}: {address:?} {why}: it has to be rsync://[USER@]HOST[:PORT]/MODULE[/PATH]"
        ))
    };
    let rest = address
        .strip_prefix("rsync://")
        .ok_or_else(|| wrong("is no address of an rsync daemon"))?;
    let (machine, path) = rest.split_once('/').ok_or_else(|| wrong("names no module"))?;
    if machine.is_empty() || path.trim_matches('/').is_empty() {
        return Err(wrong("names no module"));
    }
    if !rest
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~/:@[]+=,".contains(&b))
    {
        return Err(wrong("has characters that have no place in it"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(wrong("leads upwards"));
    }
    Ok(address.trim_end_matches('/'))
}
