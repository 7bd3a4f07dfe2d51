//! Debian's `docker-registry` in a sandbox's network: an OCI registry as people have it.

use crate::sandbox::Sandbox;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// `HOST:PORT` of every registry here: each has a network of its own.
pub const ADDRESS: &str = "127.0.0.1:5000";
/// Who may use a registry that lets in nobody else, and the password.
pub const USER: (&str, &str) = ("somebody", "secret");

/// The line of that user in a file of htpasswd's: a bcrypt hash, which is the one kind that the registry takes.
const HTPASSWD: &str = "somebody:$2b$04$TmpcL9e4IVGw.NPmYFnqZeP72WHcwNXAHeXtvJjeieBN5Wicl9HKq\n";

/// A running registry. It ends when it is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
}

impl Registry {
    /// Starts one that keeps its files below `sandbox`. With `closed` it asks for a name and a password.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start(sandbox: &Sandbox, closed: bool) -> Result<Self> {
        let place = sandbox.path().join("registry");
        std::fs::create_dir_all(&place)?;
        let passwords = place.join("htpasswd");
        std::fs::write(&passwords, HTPASSWD)?;
        let auth = if closed {
            format!(
                "auth: {{ htpasswd: {{ realm: here, path: {} }} }}\n",
                passwords.display()
            )
        } else {
            String::new()
        };
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"{ADDRESS}\" \
             }}\n{auth}",
            place.join("files").display()
        );
        let configuration = place.join("config.yml");
        std::fs::write(&configuration, text)?;
        let mut command = sandbox.command(Path::new("docker-registry"));
        let log = std::fs::File::create(place.join("log"))?;
        let child = command
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        let mut registry = Self {
            child: child.context("can't run docker-registry")?,
        };
        registry.wait(sandbox, &place)?;
        Ok(registry)
    }

    /// Waits until it answers. It tells nobody that it is ready, so it is asked.
    fn wait(&mut self, sandbox: &Sandbox, place: &Path) -> Result<()> {
        let begun = Instant::now();
        while get(sandbox, "/v2/", "*/*").is_err() {
            let log = || std::fs::read_to_string(place.join("log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "docker-registry ended with {status} (`cargo xtask setup --tests` installs it): {}",
                    log()
                );
            }
            ensure!(
                begun.elapsed().as_secs() < 20,
                "docker-registry does not answer: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It keeps nothing that would be missed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the registry of a sandbox answers to a plain `GET`: the head and the body.
///
/// # Errors
/// When it can't be asked.
pub fn get(sandbox: &Sandbox, path: &str, accept: &str) -> Result<(String, Vec<u8>)> {
    let ask = || -> Result<(String, Vec<u8>)> {
        sandbox.enter_network()?;
        let mut stream = TcpStream::connect(ADDRESS)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {ADDRESS}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.context("an answer without an end of its head")?;
        let body = answer.split_off(end + 4);
        Ok((String::from_utf8_lossy(&answer).into_owned(), body))
    };
    std::thread::scope(|scope| {
        // A thread of its own, which stays in that network until it ends.
        let asked = scope.spawn(ask).join();
        asked.map_err(|_| anyhow::anyhow!("the thread that asks panicked"))?
    })
}
