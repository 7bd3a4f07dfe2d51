//! A set of permissions as single powers, each with a name that a person can type and a sentence that says what it means:
//! what is shown before a plugin is granted anything, and what `grant` and `revoke` take and leave.

use std::fmt;

use crate::permission::{CommandPermission, FixedPath, Permissions, url_pattern_covers};

/// One thing that a plugin may be allowed. Its [`Display`](fmt::Display) is the name under which it is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Power {
    /// The roots that come with a call.
    Roots,
    /// A fixed place.
    Path(FixedPath),
    /// Network interfaces.
    Link,
    /// Packet filter tables.
    Filter,
    /// A program that runs as a helper service.
    Service(String),
    /// A program that runs to its end.
    Command(CommandPermission),
    /// Addresses that may be fetched.
    Http(String),
    /// Events to the core.
    Watch,
    /// Facts about the machine.
    System,
    /// The content of zones.
    Records,
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots => f.write_str("fs.roots"),
            Self::Path(place) => {
                let read_only = if place.writable { "" } else { ":ro" };
                write!(f, "fs.paths={}{read_only}", place.path.display())
            }
            Self::Link => f.write_str("link"),
            Self::Filter => f.write_str("filter"),
            Self::Service(program) => write!(f, "service={program}"),
            Self::Command(command) => write!(f, "command={}", line(command)),
            Self::Http(pattern) => write!(f, "http={pattern}"),
            Self::Watch => f.write_str("watch"),
            Self::System => f.write_str("system"),
            Self::Records => f.write_str("records"),
        }
    }
}

/// A program with the patterns of its arguments, as they would be typed.
fn line(command: &CommandPermission) -> String {
    std::iter::once(&command.program)
        .chain(&command.args)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

impl Power {
    /// What it lets a plugin do, for people: a clause that goes on from "it may".
    pub fn meaning(&self) -> String {
        match self {
            Self::Roots => "work in the directories of its own pools, and in scratch directories".to_owned(),
            Self::Path(place) if place.writable => format!("read and change everything below {}", place.path.display()),
            Self::Path(place) => format!("read everything below {}", place.path.display()),
            Self::Link => {
                "make, change and remove network interfaces of its own networks and their instances, and put instances on the \
                 interface that a network names as its parent"
                    .to_owned()
            }
            Self::Filter => "make, change and remove packet filter rules of its own networks".to_owned(),
            Self::Service(program) => format!("run the program {program} as a service, with any arguments"),
            Self::Command(command) => {
                let mut text = format!("run {}", line(command));
                if !command.deny.is_empty() {
                    text.push_str(&format!(" (never with {})", command.deny.join(" or ")));
                }
                if !command.env.is_empty() {
                    text.push_str(&format!(" (and set {})", command.env.join(", ")));
                }
                text
            }
            Self::Http(pattern) if pattern == "origin" => "fetch from the server that the user names".to_owned(),
            Self::Http(pattern) => format!("fetch what begins with {pattern}"),
            Self::Watch => "tell the daemon that something changed".to_owned(),
            Self::System => "read facts about the machine, such as its architecture".to_owned(),
            Self::Records => "read the content of its own zones: names and addresses of instances".to_owned(),
        }
    }

    /// Whether whoever has this power can do all that `narrow` allows. Two commands are compared pattern by pattern, without
    /// asking what the patterns have in common, so that the answer may be no where a person would find a yes; never the other
    /// way round.
    pub fn covers(&self, narrow: &Self) -> bool {
        match (self, narrow) {
            (Self::Path(wide), Self::Path(narrow)) => {
                wide.path == narrow.path && wide.id == narrow.id && (wide.writable || !narrow.writable)
            }
            (Self::Command(wide), Self::Command(narrow)) => {
                let seconds = |c: &CommandPermission| c.timeout.unwrap_or(crate::grant::DEFAULT_COMMAND_SECONDS);
                wide.program == narrow.program
                    && wide.args == narrow.args
                    && wide.deny.iter().all(|pattern| narrow.deny.contains(pattern))
                    && narrow.env.iter().all(|name| wide.env.contains(name))
                    && seconds(narrow) <= seconds(wide)
            }
            (Self::Http(wide), Self::Http(narrow)) => url_pattern_covers(wide, narrow),
            _ => self == narrow,
        }
    }

    /// Whether `text` names this power, or all of its kind.
    fn is_called(&self, text: &str) -> bool {
        let kind = |kinds: &[&str]| text == "all" || kinds.contains(&text);
        match self {
            Self::Roots => kind(&["fs", "fs.roots"]),
            Self::Path(place) => {
                kind(&["fs", "fs.paths"]) || text.strip_prefix("fs.paths=") == Some(&place.path.to_string_lossy())
            }
            Self::Service(program) => kind(&["service"]) || text.strip_prefix("service=") == Some(program),
            Self::Command(command) => {
                kind(&["command"])
                    || text
                        .strip_prefix("command=")
                        .is_some_and(|typed| typed == command.program || typed == line(command))
            }
            Self::Http(pattern) => kind(&["http"]) || text.strip_prefix("http=") == Some(pattern),
            Self::Link | Self::Filter | Self::Watch | Self::System | Self::Records => {
                kind(&[]) || text == self.to_string()
            }
        }
    }
}

/// The command line `typed`, with single spaces between its words, as an error of a refused command quotes it: a permission for that
/// line alone, if `command` allows it.
fn one_line(command: &CommandPermission, typed: &str) -> Option<CommandPermission> {
    let mut words = typed.split(' ').map(str::to_owned);
    let program = words.next().unwrap_or_default();
    let args: Vec<String> = words.collect();
    // A star in a word would be a pattern.
    let plain = !args.iter().any(|arg| arg.contains('*'));
    (plain && command.allows(&program, &args, &[])).then(|| CommandPermission {
        args,
        env: Vec::new(),
        ..command.clone()
    })
}

impl Permissions {
    /// What is in the set, one by one.
    pub fn powers(&self) -> Vec<Power> {
        let flag = |set: bool, power: Power| set.then_some(power);
        let mut powers: Vec<Power> = flag(self.fs.roots, Power::Roots).into_iter().collect();
        powers.extend(self.fs.paths.iter().cloned().map(Power::Path));
        powers.extend(flag(self.link, Power::Link));
        powers.extend(flag(self.filter, Power::Filter));
        powers.extend(self.service.iter().cloned().map(Power::Service));
        powers.extend(self.command.iter().cloned().map(Power::Command));
        powers.extend(self.http.iter().cloned().map(Power::Http));
        powers.extend(flag(self.watch, Power::Watch));
        powers.extend(flag(self.system, Power::System));
        powers.extend(flag(self.records, Power::Records));
        powers
    }

    /// The set of these powers, each once.
    pub fn of(powers: impl IntoIterator<Item = Power>) -> Self {
        let mut set = Self::default();
        for power in powers {
            match power {
                Power::Roots => set.fs.roots = true,
                Power::Path(place) => push(&mut set.fs.paths, place),
                Power::Link => set.link = true,
                Power::Filter => set.filter = true,
                Power::Service(program) => push(&mut set.service, program),
                Power::Command(command) => push(&mut set.command, command),
                Power::Http(pattern) => push(&mut set.http, pattern),
                Power::Watch => set.watch = true,
                Power::System => set.system = true,
                Power::Records => set.records = true,
            }
        }
        set
    }

    /// What is in this set and not within `other`.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        let others = other.powers();
        Self::of(
            self.powers()
                .into_iter()
                .filter(|power| !others.iter().any(|other| other.covers(power))),
        )
    }

    /// What is in either.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self::of(self.powers().into_iter().chain(other.powers()))
    }

    /// What `granted` amounts to of this set, which is what a plugin requests: the granted powers that are in it, and those in it that
    /// a granted one covers.
    #[must_use]
    pub fn within(&self, granted: &Self) -> Self {
        let requested = self.powers();
        let mut found = Vec::new();
        for power in granted.powers() {
            if self.calls_alone(&power) || requested.iter().any(|wide| wide.covers(&power)) {
                found.push(power);
            } else {
                found.extend(requested.iter().filter(|narrow| power.covers(narrow)).cloned());
            }
        }
        Self::of(found)
    }

    /// The names by which what is granted of this set is granted again, exactly or less. What no name means by itself has none: two
    /// commands that differ in what they refuse, for instance.
    pub fn names_of(&self, granted: &Self) -> Vec<String> {
        let within = self.within(granted).powers().into_iter();
        within
            .filter(|power| self.calls_alone(power))
            .map(|power| power.to_string())
            .collect()
    }

    /// Whether the name of `power` means it in this set, and nothing else.
    fn calls_alone(&self, power: &Power) -> bool {
        self.named(&power.to_string())
            .is_ok_and(|named| named.powers() == std::slice::from_ref(power))
    }

    /// Whether it allows nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The part of this set that `text` names: a power (`link`, `service=dnsmasq`), all of a kind (`fs`, `http`), `all`, or
    /// less than what is there of it (`http=https://example.org/` of `https://*`, `fs.paths=/p:ro` of a writable place).
    ///
    /// # Errors
    /// A sentence that says what there is instead.
    pub fn named(&self, text: &str) -> Result<Self, String> {
        let mut powers = self.powers();
        // One command may be called as all of a program are: whoever types it out means that one.
        let exact = powers.iter().any(|power| power.to_string() == text);
        powers.retain(|power| match exact {
            true => power.to_string() == text,
            false => power.is_called(text),
        });
        if powers.is_empty() {
            powers.extend(self.narrowed(text));
        }
        if !powers.is_empty() || text == "all" {
            return Ok(Self::of(powers));
        }
        let names: Vec<String> = self.powers().iter().map(ToString::to_string).collect();
        Err(match names.as_slice() {
            [] => format!("{text:?} is none of its permissions: there are none"),
            names => format!("{text:?} is none of its permissions: there are {}", names.join(", ")),
        })
    }

    /// A power that is within one of this set.
    fn narrowed(&self, text: &str) -> Option<Power> {
        if let Some(pattern) = text.strip_prefix("http=") {
            let wide = self.http.iter().any(|wide| url_pattern_covers(wide, pattern));
            return wide.then(|| Power::Http(pattern.to_owned()));
        }
        if let Some(typed) = text.strip_prefix("command=") {
            return self
                .command
                .iter()
                .find_map(|wide| one_line(wide, typed))
                .map(Power::Command);
        }
        let path = text.strip_prefix("fs.paths=")?.strip_suffix(":ro")?;
        let place = self
            .fs
            .paths
            .iter()
            .find(|place| place.path.to_string_lossy() == path)?;
        Some(Power::Path(FixedPath {
            writable: false,
            ..place.clone()
        }))
    }
}

fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(toml: &str) -> Permissions {
        let json = toml.replace('\'', "\"");
        serde_json::from_str(&json).expect("permissions")
    }

    fn names(set: &Permissions) -> Vec<String> {
        set.powers().iter().map(ToString::to_string).collect()
    }

    fn much() -> Permissions {
        set(
            "{'fs': {'roots': true, 'paths': [{'id': 'p', 'path': '/p', 'writable': true}]}, 'link': true,
              'service': ['d'], 'command': [{'program': 'tool', 'args': ['--a=*', '**'], 'deny': ['--x*']}],
              'http': ['origin', 'https://*.example.org/'], 'watch': true, 'records': true}",
        )
    }

    #[test]
    fn a_set_is_what_its_powers_are() {
        let much = much();
        assert_eq!(Permissions::of(much.powers()), much);
        assert_eq!(much.with(&much), much);
        assert_eq!(much.beyond(&much), Permissions::default());
        assert_eq!(much.beyond(&Permissions::default()), much);
        assert_eq!(
            names(&much),
            [
                "fs.roots",
                "fs.paths=/p",
                "link",
                "service=d",
                "command=tool --a=* **",
                "http=origin",
                "http=https://*.example.org/",
                "watch",
                "records"
            ]
        );
        assert!(much.powers().iter().all(|power| !power.meaning().is_empty()));
    }

    #[test]
    fn a_narrow_command_is_not_a_wide_one() {
        let two = set(
            "{'command': [{'program': 'tool', 'args': ['--version']}, {'program': 'tool', 'args': ['**']},
                          {'program': 'bare'}, {'program': 'bare', 'args': ['*']}]}",
        );
        let called = |text: &str| names(&two.named(text).expect("named"));
        assert_eq!(called("command=tool --version"), ["command=tool --version"]);
        assert_eq!(called("command=tool **"), ["command=tool **"]);
        assert_eq!(called("command=tool --all"), ["command=tool --all"]);
        assert_eq!(called("command=tool"), ["command=tool --version", "command=tool **"]);
        assert_eq!(called("command=bare"), ["command=bare"]);
        assert!(two.named("command=tool --*").is_err());
    }

    #[test]
    fn what_is_typed_names_powers() {
        let much = much();
        for (text, expected) in [
            ("link", vec!["link"]),
            ("records", vec!["records"]),
            ("fs", vec!["fs.roots", "fs.paths=/p"]),
            ("http", vec!["http=origin", "http=https://*.example.org/"]),
            ("command=tool", vec!["command=tool --a=* **"]),
            ("command=tool --a=1 file", vec!["command=tool --a=1 file"]),
            ("http=https://a.example.org", vec!["http=https://a.example.org"]),
            ("fs.paths=/p:ro", vec!["fs.paths=/p:ro"]),
        ] {
            assert_eq!(names(&much.named(text).expect(text)), expected, "{text}");
        }
        assert!(!much.named("fs.paths=/p:ro").expect("narrower").fs.paths[0].writable);
        assert_eq!(much.named("all").expect("everything"), much);
        for text in [
            "filter",
            "system",
            "service=e",
            "command=tool --x=1",
            "http=https://example.com",
            "http=http://a.example.org",
            "fs.paths=/q:ro",
            "",
        ] {
            let refusal = much.named(text).expect_err(text);
            assert!(refusal.contains("there are fs.roots, "), "{refusal}");
        }
    }

    #[test]
    fn the_names_of_grants_never_mean_more() {
        let much = much();
        let again = |requested: &Permissions, granted: &Permissions| {
            let names = requested.names_of(granted);
            let all = names.iter().map(|name| requested.named(name).expect(name));
            let all = all.fold(Permissions::default(), |all, one| all.with(&one));
            assert!(all.beyond(granted).is_nothing(), "{names:?} is more than {granted:?}");
            names
        };
        assert_eq!(again(&much, &much), names(&much));
        for narrow in [
            "fs.paths=/p:ro",
            "command=tool --a=1 file",
            "http=https://a.example.org/x",
        ] {
            assert_eq!(again(&much, &much.named(narrow).expect(narrow)), [narrow]);
        }
        // A place that is read, also where another may write it, and of a version before which might write it.
        let reads = set("{'fs': {'paths': [{'id': 'q', 'path': '/p'}]}}");
        assert_eq!(names(&reads.named("fs.paths=/p").expect("named")), ["fs.paths=/p:ro"]);
        assert_eq!(again(&reads, &reads), ["fs.paths=/p:ro"]);
        let both = much.with(&reads);
        assert_eq!(again(&both, &reads), ["fs.paths=/p:ro"]);
        assert!(!both.named("fs.paths=/p:ro").expect("named").fs.paths[0].writable);
        // One line with two meanings, or with another than what was granted.
        let tools = |rest: &str| set(&format!("{{'command': [{{'program': 't', 'args': ['**']{rest}}}]}}"));
        let (careful, brave) = (tools(", 'deny': ['x']"), tools(", 'env': ['E'], 'timeout': 900"));
        assert!(again(&careful.with(&brave), &careful).is_empty());
        assert!(again(&brave, &tools(", 'env': ['E']")).is_empty());
        assert_eq!(again(&careful, &careful), ["command=t **"]);
        // What is requested no longer, or less of it.
        let less = set("{'link': true, 'http': ['https://a.example.org/']}");
        assert_eq!(again(&less, &much), ["link", "http=https://a.example.org/"]);
        assert_eq!(again(&less, &set("{'filter': true}")), [""; 0]);
    }

    #[test]
    fn more_is_told_from_the_same_and_from_less() {
        let more = |new: &str, old: &str| names(&set(new).beyond(&set(old)));
        assert!(more("{'http': ['https://a.org/x/']}", "{'http': ['https://a.org/']}").is_empty());
        assert_eq!(
            more("{'http': ['https://a.org/']}", "{'http': ['https://a.org/x/']}"),
            ["http=https://a.org/"]
        );
        assert!(more("{'http': ['https://b.a.org']}", "{'http': ['https://*.a.org']}").is_empty());
        assert!(more("{'http': ['https://x:443']}", "{'http': ['https://*']}").is_empty());
        assert!(!more("{'http': ['https://a.org:8443']}", "{'http': ['https://a.org']}").is_empty());
        assert!(!more("{'http': ['https://bada.org']}", "{'http': ['https://*.a.org']}").is_empty());
        assert!(!more("{'http': ['origin']}", "{'http': ['https://*']}").is_empty());
        let tool = |rest: &str| format!("{{'command': [{{'program': 't', 'args': ['a']{rest}}}]}}");
        assert!(more(&tool(", 'deny': ['x'], 'timeout': 5"), &tool("")).is_empty());
        assert!(!more(&tool(""), &tool(", 'deny': ['x']")).is_empty());
        assert!(!more(&tool(", 'env': ['E']"), &tool("")).is_empty());
        assert!(!more(&tool(", 'timeout': 601"), &tool("")).is_empty());
        let place =
            |writable: bool| format!("{{'fs': {{'paths': [{{'id': 'p', 'path': '/p', 'writable': {writable}}}]}}}}");
        assert!(more(&place(false), &place(true)).is_empty());
        assert!(!more(&place(true), &place(false)).is_empty());
    }
}
