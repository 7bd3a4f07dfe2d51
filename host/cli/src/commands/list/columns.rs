//! The columns of `list`.

use hutch_api::instance::InstanceFull;
use hutch_api::state::InstanceState;
use hutch_api::{Config, StatusCode};

use crate::error::{Error, Result};
use crate::output::{bytes, minute};

/// What `hutch list --help` says of columns.
pub(super) const HELP: &str = "\
Columns:
  4  IPv4 addresses          n  name
  6  IPv6 addresses          N  number of processes
  a  architecture            p  process id of its init
  b  storage pool            P  profiles
  c  time of creation        s  state
  d  description             S  number of snapshots
  D  space used on disk      t  type, with what stands out about it
  e  project                 u  processor time used, in seconds
  f  image (12 digits)       F  image (whole fingerprint)
  l  time of last use        L  location
  m  memory used             M  memory used, in percent

A configuration key is a column, too: KEY, KEY:TITLE or KEY:TITLE:WIDTH. Keys and groups of
letters are separated by commas:  hutch list -c ns,limits.memory:MEMORY,user.owner";

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// One of those with a letter.
    Letter(char),
    /// A configuration key.
    Key {
        /// The key.
        key: String,
        /// What stands above it.
        title: String,
        /// The most characters that are shown; 0 for all.
        width: usize,
    },
}

/// Reads the value of `--columns`.
pub(super) fn parse(text: &str) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    for part in text.split(',') {
        if part.is_empty() {
            return Err(Error::usage(format!("{text:?}: there is nothing between two commas")));
        }
        if part.contains('.') || part.contains(':') {
            columns.push(key(part)?);
            continue;
        }
        for letter in part.chars() {
            if title(letter).is_none() {
                return Err(Error::usage(format!(
                    "there is no column {letter:?}; `hutch list --help` shows them"
                )));
            }
            columns.push(Column::Letter(letter));
        }
    }
    Ok(columns)
}

fn key(part: &str) -> Result<Column> {
    let mut parts = part.splitn(3, ':');
    let key = parts.next().unwrap_or_default().to_owned();
    let title = parts
        .next()
        .filter(|title| !title.is_empty())
        .unwrap_or(&key)
        .to_uppercase();
    let width = match parts.next() {
        None => 0,
        Some(width) => width
            .parse()
            .map_err(|_| Error::usage(format!("{part:?}: the width {width:?} is not a number")))?,
    };
    Ok(Column::Key { key, title, width })
}

fn title(letter: char) -> Option<&'static str> {
    Some(match letter {
        '4' => "IPV4",
        '6' => "IPV6",
        'a' => "ARCHITECTURE",
        'b' => "STORAGE POOL",
        'c' => "CREATED AT",
        'd' => "DESCRIPTION",
        'D' => "DISK USAGE",
        'e' => "PROJECT",
        'f' | 'F' => "BASE IMAGE",
        'l' => "LAST USED AT",
        'L' => "LOCATION",
        'm' => "MEMORY USAGE",
        'M' => "MEMORY USAGE%",
        'n' => "NAME",
        'N' => "PROCESSES",
        'p' => "PID",
        'P' => "PROFILES",
        's' => "STATE",
        'S' => "SNAPSHOTS",
        't' => "TYPE",
        'u' => "CPU USAGE",
        _ => return None,
    })
}

impl Column {
    /// The project's.
    pub(super) fn project() -> Self {
        Self::Letter('e')
    }

    /// Whether this is the project's.
    pub(super) fn is_project(&self) -> bool {
        *self == Self::project()
    }

    /// Whether the daemon has to look at the instance for it.
    pub(super) fn needs_state(&self) -> bool {
        matches!(self, Self::Letter('4' | '6' | 'D' | 'm' | 'M' | 'N' | 'p' | 'S' | 'u'))
    }

    /// What stands above it.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Letter(letter) => title(*letter).unwrap_or_default().into(),
            Self::Key { title, .. } => title.clone(),
        }
    }

    /// What it shows of an instance.
    pub(super) fn value(&self, full: &InstanceFull) -> String {
        let letter = match self {
            Self::Key { key, width, .. } => {
                let value = config(&full.instance.expanded_config, key);
                return if *width == 0 {
                    value
                } else {
                    value.chars().take(*width).collect()
                };
            }
            Self::Letter(letter) => *letter,
        };
        let instance = &full.instance;
        let state = &full.state;
        match letter {
            '4' => addresses(state, "inet"),
            '6' => addresses(state, "inet6"),
            'a' => instance.architecture.clone(),
            'b' => pool(full),
            'c' => minute(instance.created_at),
            'd' => instance.description.clone(),
            'D' => state
                .disk
                .get("root")
                .filter(|disk| disk.usage > 0)
                .map(|disk| bytes(disk.usage))
                .unwrap_or_default(),
            'e' => instance.project.clone(),
            'f' => config(&instance.expanded_config, "volatile.base_image")
                .chars()
                .take(12)
                .collect(),
            'F' => config(&instance.expanded_config, "volatile.base_image"),
            // An instance that was never used has Unix's zero there, in place of Go's.
            'l' if instance.last_used_at.get().is_some_and(|at| at.unix_timestamp() > 0) => {
                minute(instance.last_used_at)
            }
            'L' => instance.location.clone(),
            'm' if state.memory.usage > 0 => bytes(state.memory.usage),
            'M' if state.memory.usage > 0 && state.memory.total > 0 => percent(state.memory.usage, state.memory.total),
            'n' => instance.name.clone(),
            'N' if state.processes > 0 => state.processes.to_string(),
            'p' if state.pid > 0 => state.pid.to_string(),
            'P' => instance.profiles.join("\n"),
            's' => instance.status.to_uppercase(),
            'S' => full.snapshots.len().to_string(),
            't' => kind(full),
            'u' if state.cpu.usage > 0 => format!("{}s", state.cpu.usage / 1_000_000_000),
            _ => String::new(),
        }
    }
}

fn config(config: &Config, key: &str) -> String {
    config.get(key).cloned().unwrap_or_default()
}

/// Tenths of a percent, in whole numbers.
fn percent(part: i64, whole: i64) -> String {
    let tenths = i128::from(part) * 1000 / i128::from(whole);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

fn kind(full: &InstanceFull) -> String {
    let mut text = full.instance.kind.to_uppercase();
    if full.instance.ephemeral {
        text.push_str(" (EPHEMERAL)");
    }
    text
}

fn pool(full: &InstanceFull) -> String {
    let root = full.instance.expanded_devices.values().find(|device| {
        device.get("type").is_some_and(|kind| kind == "disk") && device.get("path").is_some_and(|path| path == "/")
    });
    root.and_then(|device| device.get("pool")).cloned().unwrap_or_default()
}

/// Addresses that others can reach, each with its interface.
fn addresses(state: &InstanceState, family: &str) -> String {
    if !matches!(
        state.status_code,
        StatusCode::RUNNING | StatusCode::FROZEN | StatusCode::READY
    ) {
        return String::new();
    }
    let mut lines = Vec::new();
    for (name, interface) in state
        .network
        .iter()
        .filter(|(_, interface)| interface.kind != "loopback")
    {
        for address in &interface.addresses {
            if address.family == family && !matches!(address.scope.as_str(), "link" | "local") {
                lines.push(format!("{} ({name})", address.address));
            }
        }
    }
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> InstanceFull {
        let json = serde_json::json!({
            "name": "c1", "status": "Running", "status_code": 103, "type": "container", "ephemeral": true,
            "profiles": ["default", "web"], "expanded_config": {"limits.memory": "1GiB"},
            "expanded_devices": {"root": {"type": "disk", "path": "/", "pool": "fast"}},
            "last_used_at": "1970-01-01T00:00:00Z",
            "state": {"status": "Running", "status_code": 103, "pid": 42, "processes": -1,
                "memory": {"usage": 1048576, "total": 3145728}, "cpu": {"usage": 2_500_000_000_u64},
                "network": {
                    "lo": {"type": "loopback", "addresses": [{"family": "inet", "address": "127.0.0.1", "scope": "local"}]},
                    "eth0": {"type": "broadcast", "addresses": [
                        {"family": "inet", "address": "10.0.0.2", "scope": "global"},
                        {"family": "inet6", "address": "fe80::1", "scope": "link"}]}}},
            "snapshots": [{"name": "s1"}]
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn columns_show_what_they_say() {
        let instance = instance();
        let shown = |letters| {
            let columns = parse(letters).unwrap();
            columns
                .iter()
                .map(|column| column.value(&instance))
                .collect::<Vec<_>>()
                .join("|")
        };
        assert_eq!(shown("ns46tS"), "c1|RUNNING|10.0.0.2 (eth0)||CONTAINER (EPHEMERAL)|1");
        assert_eq!(shown("bmMNpPu"), "fast|1.00MiB|33.3%||42|default\nweb|2s");
        assert_eq!(shown("l"), "");
        assert_eq!(shown("n,limits.memory:MEM:2"), "c1|1G");
    }

    #[test]
    fn columns_that_need_no_state_are_known() {
        assert!(parse("nsacPt").unwrap().iter().all(|column| !column.needs_state()));
        assert!(parse("ns4").unwrap().iter().any(Column::needs_state));
    }

    #[test]
    fn unknown_columns_are_refused() {
        assert!(
            parse("nX")
                .unwrap_err()
                .to_string()
                .starts_with("there is no column 'X'")
        );
        assert!(parse("n,,s").is_err());
        assert!(parse("user.x:Y:wide").is_err());
    }
}
