//! Where servers are, as Open vSwitch writes it (`ovsdb(7)`, "Active connection methods"), and which of a cluster to talk to.

use std::str::FromStr;

use crate::{Client, Condition, Error, Result, Transaction, Transport};

/// The address of one server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// `unix:FILE`
    Unix(String),
    /// `tcp:HOST:PORT`
    Tcp(String, u16),
    /// `ssl:HOST:PORT`
    Tls(String, u16),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of a database: expected unix:FILE, tcp:HOST:PORT or ssl:HOST:PORT")]
pub struct ParseRemoteError(String);

impl Remote {
    /// Several addresses of one database, separated by commas.
    ///
    /// # Errors
    /// The first that is none.
    pub fn list(text: &str) -> std::result::Result<Vec<Self>, ParseRemoteError> {
        text.split(',').map(|part| part.trim().parse()).collect()
    }
}

impl FromStr for Remote {
    type Err = ParseRemoteError;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        let wrong = || ParseRemoteError(text.to_owned());
        let (method, rest) = text.split_once(':').ok_or_else(wrong)?;
        if method == "unix" {
            return match rest.starts_with('/') {
                true => Ok(Self::Unix(rest.to_owned())),
                false => Err(wrong()),
            };
        }
        let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
        // An IPv6 address stands in brackets.
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?.to_string(),
            None if host.is_empty() || host.contains(':') => return Err(wrong()),
            None => host.to_owned(),
        };
        let port = port.parse().map_err(|_| wrong())?;
        match method {
            "tcp" => Ok(Self::Tcp(host, port)),
            "ssl" => Ok(Self::Tls(host, port)),
            _ => Err(wrong()),
        }
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = |host: &str| match host.contains(':') {
            true => format!("[{host}]"),
            false => host.to_owned(),
        };
        match self {
            Self::Unix(file) => write!(f, "unix:{file}"),
            Self::Tcp(name, port) => write!(f, "tcp:{}:{port}", host(name)),
            Self::Tls(name, port) => write!(f, "ssl:{}:{port}", host(name)),
        }
    }
}

/// Connects to the server that a change of `database` has to go to: the leader of a cluster, or the one that there is. Servers that can't
/// be reached, that have lost the others or that only follow are passed over.
///
/// # Errors
/// What the last server that was tried answered, where none will do.
pub fn leader<T: Transport>(
    remotes: &[Remote],
    database: &str,
    mut connect: impl FnMut(&Remote) -> std::result::Result<T, String>,
) -> Result<Client<T>> {
    let mut last = Error::Transport("there is no address to connect to".to_owned());
    for remote in remotes {
        let attempt = connect(remote)
            .map_err(|error| Error::Transport(format!("{remote}: {error}")))
            .and_then(|transport| {
                let mut client = Client::new(transport);
                leads(&mut client, database, remote)?;
                Ok(client)
            });
        match attempt {
            Ok(client) => return Ok(client),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether the server takes changes of the database (`_Server`, ovsdb-server(5)).
fn leads<T: Transport>(client: &mut Client<T>, database: &str, remote: &Remote) -> Result<()> {
    let mut asked = Transaction::new("_Server");
    let rows = asked.select("Database", [Condition::is("name", database)], ["leader", "connected"]);
    let rows = client.transact(&asked)?.rows(rows)?;
    let Some(row) = rows.first() else {
        return Err(Error::Refused(format!("{remote} has no database {database}")));
    };
    if row.optional_boolean("connected")? != Some(true) {
        return Err(Error::Transport(format!("{remote} is not connected with its cluster")));
    }
    match row.optional_boolean("leader")? {
        Some(true) => Ok(()),
        _ => Err(Error::Transport(format!("{remote} is not the leader of its cluster"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in [
            "unix:/run/ovn/ovnnb_db.sock",
            "tcp:192.0.2.1:6641",
            "ssl:[2001:db8::1]:6641",
            "tcp:nb.example:1",
        ] {
            assert_eq!(
                text.parse::<Remote>().map(|remote| remote.to_string()),
                Ok(text.to_owned())
            );
        }
        assert_eq!(Remote::list("tcp:a:1, tcp:b:2").map(|list| list.len()), Ok(2));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "unix:x",
            "tcp:1",
            "tcp::1",
            "tcp:a:x",
            "tcp:a:70000",
            "ftp:a:1",
            "tcp:2001:db8::1:6641",
            "tcp:[x]:1",
            "tcp:a:1,",
        ] {
            assert!(Remote::list(text).is_err(), "{text:?}");
        }
    }
}
