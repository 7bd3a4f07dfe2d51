//! A plugin that was granted much and tries to get out of its sandbox, through the daemon. `docs/security.md` lists its attempts and what each
//! ends in; that table is what is tested.

use anyhow::{Context, Result, bail, ensure};
use hutch_tests::daemon::{Daemon, Options, POOL};
use hutch_tests::leftovers::Leftovers;
use hutch_tests::programs::Programs;
use hutch_tests::rest::Client;
use nix::sys::stat::{Mode, SFlag};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The plugin.
const PLUGIN: &str = "org.hutch.test.malicious";
/// The file that its attempts on files are out for.
const SECRET: &str = "nobody's business";
/// How long an error may be: a message of 2 KiB and some lines of the plugin's log of 1 KiB each.
const LONGEST_ERROR: usize = 12 << 10;

/// A row of the table: the attempt and what it ends in.
struct Row {
    attempt: String,
    end: String,
}

/// The rows of the document's table of attempts: `| `name` | … | `end` |`.
fn table() -> Result<Vec<Row>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    let code = |cell: &str| cell.trim().strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
    let rows: Vec<Row> = text
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').collect();
            let [attempt, _, end] = cells.as_slice() else {
                return None;
            };
            let (attempt, end) = (code(attempt)?, code(end)?);
            attempt.contains('.').then_some(Row { attempt, end })
        })
        .collect();
    ensure!(
        rows.len() >= 80,
        "only {} attempts are listed in {}",
        rows.len(),
        file.display()
    );
    let names: BTreeSet<&str> = rows.iter().map(|row| row.attempt.as_str()).collect();
    ensure!(names.len() == rows.len(), "an attempt is listed twice");
    Ok(rows)
}

/// What the error of an attempt must say, by the name of its end.
fn told(end: &str) -> String {
    match end {
        "crash" => "crashed:".to_owned(),
        "exit" => "ended the program with status".to_owned(),
        "stopped" => "was stopped after running for".to_owned(),
        "time" => "did not end within".to_owned(),
        "memory" => "needs more memory than the".to_owned(),
        "unreadable" => "gave an answer that can't be read".to_owned(),
        "too much" => "passed or answered more than".to_owned(),
        code => format!("refused with {code}: "),
    }
}

struct Place {
    daemon: Daemon,
    outside: tempfile::TempDir,
    pool: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        let programs = Programs::from_environment()?;
        let guest = programs
            .guests
            .clone()
            .context("HUTCH_GUESTS is not set")?
            .join("hutch_malicious_guest.wasm");
        let mut configuration = String::new();
        let mut ours: Vec<_> = std::fs::read_dir(&programs.plugins)?.collect::<Result<_, _>>()?;
        ours.sort_by_key(std::fs::DirEntry::path);
        for entry in ours {
            configuration.push_str(&format!("[[plugin]]\npath = {:?}\n\n", entry.path()));
        }
        // All that it requests.
        configuration.push_str(&format!(
            "[[plugin]]\npath = {guest:?}\n\
             grants = {{ fs = {{ roots = true }}, link = true, filter = true, service = [\"dnsmasq\"], http = [\"origin\"], watch = true, \
             command = [{{ program = \"cat\", args = [\"--\", \"{{tree:0}}\"], deny = [\"--number*\"] }}] }}\n"
        ));
        let daemon = Daemon::with(Options {
            configuration: Some(configuration),
            ..Options::default()
        })?;
        let pool = json!({ "name": "evil", "driver": "malicious", "config": {} });
        daemon.client().sync("POST", "/1.0/storage-pools", &pool)?;
        let pool = daemon.state_dir().join("storage-pools/evil");
        let outside = tempfile::tempdir()?;
        std::fs::write(outside.path().join("secret"), SECRET)?;
        Ok(Self { daemon, outside, pool })
    }

    /// Plants what a container's root could have made, had it the pool to itself.
    fn plant(&self) -> Result<()> {
        let planted = self.pool.join("planted");
        if planted.exists() {
            std::fs::remove_dir_all(&planted)?;
        }
        std::fs::create_dir(&planted)?;
        std::os::unix::fs::symlink(self.outside.path(), planted.join("link"))?;
        std::os::unix::fs::symlink(self.outside.path().join("secret"), planted.join("link-to-file"))?;
        nix::unistd::mkfifo(&planted.join("fifo"), Mode::S_IRWXU)?;
        // Reads of it would not end: zero(4).
        let zero = nix::sys::stat::makedev(1, 5);
        nix::sys::stat::mknod(&planted.join("device"), SFlag::S_IFCHR, Mode::S_IRWXU, zero)?;
        std::fs::write(planted.join("large"), vec![0; 2 << 20])?;
        Ok(())
    }

    /// Makes the attempt; the error that it ends in, if it does.
    fn attempt(&self, client: &mut Client, name: &str) -> Result<Option<String>> {
        if name.starts_with("early.") {
            let pool = json!({ "name": "early", "driver": "malicious", "config": { "attempt": name } });
            let answer = client.request("POST", "/1.0/storage-pools", &pool)?;
            return Ok((answer.status >= 400).then(|| answer.error()));
        }
        let config = json!({ "config": { "attempt": name } });
        client.sync("PATCH", "/1.0/storage-pools/evil", &config)?;
        let answer = client.request("GET", "/1.0/storage-pools/evil/resources", &Value::Null)?;
        Ok((answer.status >= 400).then(|| answer.error()))
    }

    /// Fails unless all is as it was outside of what the plugin was given.
    fn untouched(&self, client: &mut Client) -> Result<()> {
        let files: Vec<_> = std::fs::read_dir(self.outside.path())?.collect::<Result<_, _>>()?;
        ensure!(files.len() == 1, "something was made outside: {files:?}");
        ensure!(
            std::fs::read_to_string(files[0].path())? == SECRET,
            "the secret was changed"
        );
        ensure!(self.pool.join(".hutch-pool").is_file(), "the host's mark is gone");
        ensure!(!Path::new("/tmp/escaped").exists(), "a file was made outside");
        client.get(&format!("/1.0/storage-pools/{POOL}"))?;
        Ok(())
    }
}

fn check(row: &Row, error: Option<String>) -> Result<()> {
    let Some(error) = error else {
        ensure!(row.end == "nothing", "it succeeded");
        return Ok(());
    };
    ensure!(!error.contains("escaped:"), "{error}");
    ensure!(error.len() <= LONGEST_ERROR, "the error has {} bytes", error.len());
    ensure!(
        !error.chars().any(char::is_control),
        "the error has control characters: {error:?}"
    );
    ensure!(
        error.contains(PLUGIN) && error.contains("0.1.0"),
        "it does not name the plugin: {error}"
    );
    match row.end.as_str() {
        "nothing" => bail!("it failed: {error}"),
        "bounded" => Ok(()),
        end => {
            ensure!(error.contains(&told(end)), "it ended otherwise: {error}");
            Ok(())
        }
    }
}

#[test]
fn every_attempt_to_get_out_ends_as_it_is_documented() -> Result<()> {
    let place = Place::new()?;
    let mut client = place.daemon.client();
    place.daemon.instance("bystander", &json!({}))?;
    let pid = place.daemon.pid()?;
    place.plant()?;
    let before = Leftovers::settled(&place.daemon)?;
    let mut wrong = Vec::new();
    for row in table()? {
        place.plant()?;
        let error = place.attempt(&mut client, &row.attempt)?;
        if let Err(why) = check(&row, error).and_then(|()| place.untouched(&mut client)) {
            wrong.push(format!("{}: should end in {}: {why:#}", row.attempt, row.end));
        }
        // So that the faults of one attempt do not end in quarantine during another.
        let enable = json!({ "action": "enable" });
        client.sync("PUT", &format!("/1.0/plugins/{PLUGIN}/state"), &enable)?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(place.daemon.pid()? == pid, "the daemon is another one");
    ensure!(place.daemon.shell("bystander", "echo here")? == "here");
    place.plant()?;
    before.compare_with_now(&place.daemon)?;
    let log = place.daemon.log();
    ensure!(
        !log.lines().any(|line| line.starts_with("2026-01-01")),
        "a plugin forged a line of the log"
    );
    Ok(())
}
