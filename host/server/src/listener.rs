//! The unix socket: who may connect to it, and how it comes and goes.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::kill;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Group, Pid};
use tokio::net::UnixListener;

/// The group whose members may connect besides root; it is as good as root.
pub const GROUP: &str = "hutch";
/// Connections that wait in the kernel while all that are served at one time are busy (listen(2)).
const BACKLOG: i32 = 4096;
/// Bytes that an address of a unix socket can hold, without the zero at its end (unix(7)).
const ADDRESS: usize = 107;

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process answers there.
    #[error("{0} is served by another process: stop it, or choose another state directory")]
    Busy(PathBuf),
    /// Something that isn't a socket has the name.
    #[error("{0} is in the way and no socket")]
    NotASocket(PathBuf),
    /// The path has no file name.
    #[error("{0} is not the path of a socket")]
    Path(PathBuf),
    /// A step failed.
    #[error("{step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A served socket. It goes away with this value.
#[derive(Debug)]
pub struct Listener {
    pub(crate) inner: UnixListener,
    name: Name,
}

/// The socket's name in the file system, and which file it was when it was made.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    file: (u64, u64),
}

impl Drop for Name {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket could not be removed");
        }
    }
}

impl Listener {
    /// Serves `path`: mode 0660, owned by root and the group [`GROUP`] where there is one. A socket that nobody serves any more
    /// is replaced. The path may be longer than an address can hold.
    ///
    /// # Errors
    /// [`ListenError`]; a socket that somebody serves is left alone. Must be called within tokio's runtime.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |step| {
            move |source: io::Error| ListenError::Io {
                step,
                path: path.to_owned(),
                source,
            }
        };
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ListenError::Path(path.to_owned()));
        };
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        let directory = open(
            directory,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| failed("opening the directory of")(errno.into()))?;
        refuse_if_taken(path, &short(&directory, Path::new(name)))?;

        // Made under another name and moved into place: it is never there with the wrong owner, and replaces what was stale
        // without a moment in which there is nothing.
        let temporary = format!(".{}.{}", name.to_string_lossy(), std::process::id());
        let made = short(&directory, Path::new(&temporary));
        let _ = fs::remove_file(&made);
        let listener = make(&made).map_err(failed("making the socket"))?;
        let moved = give_to_group(&made).and_then(|()| fs::rename(&made, short(&directory, Path::new(name))));
        if let Err(error) = moved {
            let _ = fs::remove_file(&made);
            return Err(failed("putting the socket into its place at")(error));
        }
        let file = fs::symlink_metadata(path).map_err(failed("looking at"))?;
        let name = Name {
            path: path.to_owned(),
            file: (file.dev(), file.ino()),
        };
        let inner = UnixListener::from_std(listener).map_err(failed("serving"))?;
        Ok(Self { inner, name })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.name.path
    }
}

/// A path to `name` in `directory` that fits into an address whatever the directory's own length is.
fn short(directory: &OwnedFd, name: &Path) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name)
}

fn refuse_if_taken(path: &Path, short: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(short) {
        Ok(file) if !file.file_type().is_socket() => Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => match connect(short) {
            // Nobody listens: what a daemon leaves that was killed.
            Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
            // A child that a killed daemon was just starting holds the socket until it runs its own program.
            Ok(connection) if is_dead(&connection) => Ok(()),
            // A full queue is a living daemon's.
            Ok(_) | Err(Errno::EAGAIN) => Err(ListenError::Busy(path.to_owned())),
            Err(errno) => Err(ListenError::Io {
                step: "trying out the socket",
                path: path.to_owned(),
                source: errno.into(),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(ListenError::Io {
            step: "looking at",
            path: path.to_owned(),
            source,
        }),
    }
}

fn stream_socket() -> nix::Result<OwnedFd> {
    socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )
}

fn connect(path: &Path) -> nix::Result<OwnedFd> {
    let socket = stream_socket()?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

/// Whether the process that listened at the other end has ended. The kernel keeps its number (`SO_PEERCRED`, unix(7)); it is 0 for
/// one that can't be seen from here, which counts as living.
fn is_dead(connection: &OwnedFd) -> bool {
    socket::getsockopt(connection, socket::sockopt::PeerCredentials)
        .is_ok_and(|peer| peer.pid() > 0 && kill(Pid::from_raw(peer.pid()), None) == Err(Errno::ESRCH))
}

fn make(path: &Path) -> io::Result<StdListener> {
    if path.as_os_str().len() > ADDRESS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("its name is longer than {ADDRESS} bytes"),
        ));
    }
    let socket = stream_socket()?;
    // The file gets the mode that the socket has when it is bound, so it is never more open than this (but for the umask).
    fchmod(socket.as_fd(), Mode::from_bits_truncate(0o660))?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o660))?;
    socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(StdListener::from(socket))
}

fn give_to_group(path: &Path) -> io::Result<()> {
    match Group::from_name(GROUP)? {
        Some(group) => chown(path, None, Some(group.gid.as_raw())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory() -> PathBuf {
        let path = std::env::temp_dir().join(format!("hutch-listener-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn a_live_socket_is_refused_and_a_stale_one_replaced() {
        let directory = directory();
        let path = directory.join("unix.socket");
        let first = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Listener::bind(&path), Err(ListenError::Busy(_))));
        // What a killed daemon leaves: a name that nobody listens behind.
        std::mem::forget(first.name);
        drop(first.inner);
        assert!(path.exists());
        let second = Listener::bind(&path).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        drop(second);
        assert!(!path.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    /// A child that outlives the process that listened, as one does that was just being started.
    #[tokio::test]
    async fn a_socket_that_only_a_child_still_holds_is_stale() {
        let directory = directory();
        let path = directory.join("unix.socket");
        let script = "import os, socket, sys, time\n\
                      s = socket.socket(socket.AF_UNIX)\n\
                      s.bind(sys.argv[1])\n\
                      s.listen()\n\
                      child = os.fork()\n\
                      if child: print(child, flush=True); os._exit(0)\n\
                      os.close(1); os.close(2); time.sleep(60)";
        let parent = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .output()
            .unwrap();
        let child: i32 = String::from_utf8(parent.stdout).unwrap().trim().parse().unwrap();
        assert!(connect(&path).is_ok());
        assert!(Listener::bind(&path).is_ok());
        kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
        fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let directory = directory();
        let path = directory.join("unix.socket");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn a_long_path_is_served() {
        let directory = directory();
        let deep = directory.join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let listener = Listener::bind(&deep.join("unix.socket")).unwrap();
        let handle = open(&deep, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
        assert!(connect(&short(&handle, Path::new("unix.socket"))).is_ok());
        drop(listener);
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
        fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn a_successors_socket_is_not_removed() {
        let directory = directory();
        let path = directory.join("unix.socket");
        let first = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        fs::remove_dir_all(directory).unwrap();
    }
}
