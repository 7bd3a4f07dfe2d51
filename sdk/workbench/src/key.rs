//! `key`: a publisher's pair of keys, as minisign has them (<https://jedisct1.github.io/minisign/>). The public one goes to those who
//! install the publisher's plugins, the secret one stays.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use minisign::{KeyPair, SecretKey, SecretKeyBox};

/// Bytes of the largest file with a key or password that is read; one has some hundred.
const LARGEST: u64 = 4096;

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Options {
    /// Make a pair of keys: NAME.pub for those who install your plugins, NAME.key for nobody
    New(New),
}

/// What `key new` may be told.
#[derive(Debug, Args)]
pub(crate) struct New {
    /// What the files are called
    #[arg(default_value = "plugins")]
    name: PathBuf,
    #[command(flatten)]
    password: Password,
    /// Protect the secret key with no password
    #[arg(long, conflicts_with = "password_file")]
    no_password: bool,
}

/// Where a key's password comes from.
#[derive(Clone, Debug, Args)]
pub(crate) struct Password {
    /// Take the secret key's password from the first line of this file instead of asking for it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl Password {
    /// The password, if one can be had: of the file, or else what a person types.
    fn get(&self, prompt: &str) -> Result<String> {
        let password = match &self.password_file {
            Some(path) => first_line(path)?,
            None if std::io::stdin().is_terminal() => rpassword::prompt_password(prompt)?,
            None => bail!("the key has a password, and nobody is there to type it: --password-file FILE gives it"),
        };
        ensure!(!password.is_empty(), "an empty password protects nothing");
        Ok(password)
    }
}

/// Makes the keys.
///
/// # Errors
/// When there are some of that name, or they can't be made or written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options::New(options) = options;
    let (public, secret) = (with_ending(&options.name, "pub"), with_ending(&options.name, "key"));
    for path in [&public, &secret] {
        ensure!(
            !path.exists(),
            "{} is there already; nothing was changed",
            path.display()
        );
    }
    let pair = if options.no_password {
        KeyPair::generate_unencrypted_keypair()?
    } else {
        KeyPair::generate_encrypted_keypair(Some(chosen(&options.password)?))?
    };
    let id = id_of(pair.pk.keynum());
    let comment = format!("minisign encrypted secret key {id}");
    create(&secret, 0o600, pair.sk.to_box(Some(&comment))?.to_string().as_bytes())?;
    create(&public, 0o644, pair.pk.to_box()?.to_string().as_bytes())?;
    println!("Key {id}: {} and {}", public.display(), secret.display());
    println!(
        "Sign with the secret one, and never give it away: hutch plugin sign FILE --key {}",
        secret.display()
    );
    println!(
        "Who installs your plugins trusts the public one: hutch plugin trust add NAME {}",
        public.display()
    );
    Ok(())
}

/// A new password: typed twice where it is typed.
fn chosen(password: &Password) -> Result<String> {
    if password.password_file.is_none() && !std::io::stdin().is_terminal() {
        bail!("nobody is there to type a password: --password-file FILE gives one, --no-password goes without");
    }
    let first = password.get("Password for the secret key: ")?;
    if password.password_file.is_none() {
        let second = rpassword::prompt_password("The same once more: ")?;
        ensure!(first == second, "these were two passwords; nothing was made");
    }
    Ok(first)
}

/// Reads a secret key, and asks for its password if it has one.
///
/// # Errors
/// When it can't be read, is none, or the password is another.
pub(crate) fn secret(path: &Path, password: &Password) -> Result<SecretKey> {
    let text = read(path)?;
    let parse = || SecretKeyBox::from_string(&text).with_context(|| format!("{} is no secret key", path.display()));
    match parse()?.into_unencrypted_secret_key() {
        Ok(key) => Ok(key),
        // The library says no more of one with a password than of one that is damaged; with a password it says which.
        Err(_) => {
            let password = password.get(&format!("Password of {}: ", path.display()))?;
            let key = parse()?.into_secret_key(Some(password));
            key.with_context(|| format!("{} can't be used", path.display()))
        }
    }
}

/// The id of a key as minisign prints it: a number of 64 bits, the least significant byte first.
pub(crate) fn id_of(bytes: &[u8]) -> String {
    bytes.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

/// The first line of a small file.
///
/// # Errors
/// When it can't be read.
pub(crate) fn first_line(path: &Path) -> Result<String> {
    Ok(read(path)?.lines().next().unwrap_or_default().to_owned())
}

fn read(path: &Path) -> Result<String> {
    let what = || format!("can't read {}", path.display());
    let size = std::fs::metadata(path).with_context(what)?.len();
    ensure!(size <= LARGEST, "{} is too large for what it should be", path.display());
    std::fs::read_to_string(path).with_context(what)
}

/// `NAME.ENDING`, where NAME may have dots.
fn with_ending(name: &Path, ending: &str) -> PathBuf {
    let mut path = name.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    path.into()
}

/// Writes a file that was not there.
fn create(path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let what = || format!("can't write {}", path.display());
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = file.with_context(what)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_what_minisign_prints() {
        assert_eq!(
            id_of(&[0x8d, 0x4f, 0x24, 0x03, 0x66, 0x73, 0x61, 0xda]),
            "DA61736603244F8D"
        );
        assert_eq!(with_ending(Path::new("a/b.c"), "pub"), Path::new("a/b.c.pub"));
    }

    #[test]
    fn no_key_is_written_over_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = Options::New(New {
            name: directory.path().join("x"),
            password: Password { password_file: None },
            no_password: true,
        });
        run(&options).expect("made");
        let key = directory.path().join("x.key");
        let before = std::fs::read(&key).expect("written");
        assert!(run(&options).is_err());
        assert_eq!(std::fs::read(&key).expect("there"), before);
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600);
        secret(&key, &Password { password_file: None }).expect("a key without a password");
    }
}
