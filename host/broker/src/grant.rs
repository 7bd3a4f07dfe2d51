//! The one place that says whether a plugin may do something: what its manifest requests and the operator granted.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hutch_driver::DriverError;

use crate::Subject;
use crate::permission::Permissions;

/// What the operator gave a plugin. It is shared by all calls, so that what is taken away counts from the next host function on,
/// also in a call that goes on.
#[derive(Clone, Debug, Default)]
pub struct Granted(Arc<ArcSwap<Permissions>>);

impl Granted {
    /// What is given at first.
    pub fn new(permissions: Permissions) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(permissions)))
    }

    /// What is given at this moment.
    pub fn get(&self) -> Arc<Permissions> {
        self.0.load_full()
    }

    /// Replaces what is given, for everybody who asks from now on.
    pub fn set(&self, permissions: Permissions) {
        self.0.store(Arc::new(permissions));
    }
}

/// Two sets of powers, of which their intersection counts.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// What the manifest asks for.
    pub requested: Permissions,
    /// What the operator gave.
    pub granted: Granted,
}

impl Grants {
    /// What is asked for, and what is given of it at first.
    pub fn new(requested: Permissions, granted: Permissions) -> Self {
        Self {
            requested,
            granted: Granted::new(granted),
        }
    }

    /// The grants of a plugin whose operator gave it what it asks for.
    pub fn as_requested(requested: Permissions) -> Self {
        Self::new(requested.clone(), requested)
    }
}

/// Answers for one plugin.
#[derive(Clone, Copy, Debug)]
pub struct Granter<'a> {
    subject: &'a Subject,
}

/// What the check of a command found out for its running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandGrant {
    /// Until the program is killed.
    pub timeout: std::time::Duration,
}

/// Seconds that a command may take where neither request nor grant says.
pub(crate) const DEFAULT_COMMAND_SECONDS: u64 = 600;

impl<'a> Granter<'a> {
    /// A granter for `subject`.
    pub fn new(subject: &'a Subject) -> Self {
        Self { subject }
    }

    /// Whether `link` functions may be used.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn link(&self) -> Result<(), DriverError> {
        self.check("link", |p| p.link)
    }

    /// Whether `filter` functions may be used.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn filter(&self) -> Result<(), DriverError> {
        self.check("filter", |p| p.filter)
    }

    /// Whether `watch` functions may be used.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn watch(&self) -> Result<(), DriverError> {
        self.check("watch", |p| p.watch)
    }

    /// Whether `system` functions may be used.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn system(&self) -> Result<(), DriverError> {
        self.check("system", |p| p.system)
    }

    /// Whether `records` functions may be used.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn records(&self) -> Result<(), DriverError> {
        self.check("records", |p| p.records)
    }

    /// Whether the roots of a call may be used.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn fs_roots(&self) -> Result<(), DriverError> {
        self.check("fs.roots", |p| p.fs.roots)
    }

    /// The fixed place that goes by `id` and that both sides name. It is writable where both say so.
    ///
    /// # Errors
    /// `not-requested` where the manifest asks for no tree at all; `not-found` where it knows no such id; `not-granted` where the operator did not give its path.
    pub fn fs_path(&self, id: &str) -> Result<(&'a Path, bool), DriverError> {
        let fs = &self.subject.grants.requested.fs;
        let Some(requested) = fs.paths.iter().find(|place| place.id == id) else {
            if !fs.roots && fs.paths.is_empty() {
                return Err(self.not_requested("fs"));
            }
            return Err(DriverError::new("not-found", format!("this call has no root {id:?}")));
        };
        let all = self.subject.grants.granted.get();
        // It may have been granted twice: to be read first, and to be written later.
        let granted = all.fs.paths.iter().filter(|place| place.path == requested.path);
        let Some(writable) = granted.map(|place| place.writable).max() else {
            return Err(self.not_granted(&format!("fs.paths={}", requested.path.display())));
        };
        Ok((&requested.path, requested.writable && writable))
    }

    /// Whether any `service` function may be used. The ones that start a program ask [`Granter::service`].
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn services(&self) -> Result<(), DriverError> {
        self.check("service", |p| !p.service.is_empty())
    }

    /// Whether `program` may run as a service.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn service(&self, program: &str) -> Result<(), DriverError> {
        self.check(&format!("service={program}"), |p| {
            p.service.iter().any(|name| name == program)
        })
    }

    /// Whether `program` may be run with these arguments and additions to its environment.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn command(
        &self,
        program: &str,
        args: &[String],
        env: &[(String, String)],
    ) -> Result<CommandGrant, DriverError> {
        let what = format!(
            "command={}",
            std::iter::once(program)
                .chain(args.iter().map(String::as_str))
                .collect::<Vec<_>>()
                .join(" ")
        );
        let timeout = |permissions: &Permissions| {
            let mut list = permissions.command.iter();
            list.find(|p| p.allows(program, args, env)).map(|p| p.timeout)
        };
        let grants = &self.subject.grants;
        let requested = timeout(&grants.requested).ok_or_else(|| self.not_requested(&what))?;
        let granted = timeout(&grants.granted.get()).ok_or_else(|| self.not_granted(&what))?;
        let seconds = [requested, granted]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(DEFAULT_COMMAND_SECONDS);
        Ok(CommandGrant {
            timeout: std::time::Duration::from_secs(seconds),
        })
    }

    /// Whether `url` may be fetched in a call whose caller named the server `origin`. Asked again for each redirection.
    ///
    /// # Errors
    /// `not-requested`, `not-granted`.
    pub fn http(&self, origin: Option<&str>, url: &reqwest::Url) -> Result<(), DriverError> {
        let origin = origin.and_then(|o| reqwest::Url::parse(o).ok());
        let what = format!("http={}", url.origin().ascii_serialization());
        self.check(&what, |p| {
            p.http
                .iter()
                .any(|pattern| crate::permission::url_matches(pattern, url, origin.as_ref()))
        })
    }

    fn check(&self, what: &str, has: impl Fn(&Permissions) -> bool) -> Result<(), DriverError> {
        if !has(&self.subject.grants.requested) {
            return Err(self.not_requested(what));
        }
        if !has(&self.subject.grants.granted.get()) {
            return Err(self.not_granted(what));
        }
        Ok(())
    }

    fn not_requested(&self, what: &str) -> DriverError {
        let plugin = &self.subject.plugin;
        self.refusal("not-requested", what, format!(
            "the manifest of {plugin} does not request the permission {what}: its author has to add it under [permissions]"
        ))
    }

    fn not_granted(&self, what: &str) -> DriverError {
        let plugin = &self.subject.plugin;
        // A line that is pasted does what it says, whatever the plugin asked to be run. What a terminal would not show as it is gets no
        // line: the permission has its name in `hutch plugin info`.
        let command = if what.contains(char::is_control) {
            format!("hutch plugin grant {plugin} PERMISSION")
        } else {
            format!("hutch plugin grant {plugin} '{}'", what.replace('\'', r"'\''"))
        };
        self.refusal(
            "not-granted",
            what,
            format!(
                "{plugin} requests the permission {what}, which was not granted: an operator can give it with `{command}`, or in \
                 the configuration that lists it"
            ),
        )
    }

    fn refusal(&self, code: &str, what: &str, message: String) -> DriverError {
        let mut error = DriverError::new(code, message).from_plugin(&self.subject.plugin, &self.subject.version);
        error.details.push(("permission".to_owned(), what.to_owned()));
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SubjectLimits;
    use crate::permission::{CommandPermission, FixedPath};

    #[test]
    fn a_hint_that_is_pasted_does_what_it_says() {
        let command = CommandPermission {
            program: "x".to_owned(),
            args: vec!["**".to_owned()],
            deny: Vec::new(),
            env: Vec::new(),
            timeout: None,
        };
        let subject = Subject {
            plugin: "org.example.x".to_owned(),
            version: "1.0.0".to_owned(),
            digest: String::new(),
            family: String::new(),
            grants: Grants::new(
                Permissions {
                    command: vec![command],
                    ..Permissions::default()
                },
                Permissions::default(),
            ),
            limits: crate::SubjectLimits::default(),
            config: hutch_driver::Options::new(),
        };
        let refusal = |argument: &str| {
            let refused = subject.granter().command("x", &[argument.to_owned()], &[]);
            refused.expect_err("nothing is granted").message
        };
        let hint = refusal("'; rm -rf / #");
        assert!(
            hint.contains(r"`hutch plugin grant org.example.x 'command=x '\''; rm -rf / #'`"),
            "{hint}"
        );
        let hint = refusal("a\nb");
        assert!(hint.contains("`hutch plugin grant org.example.x PERMISSION`"), "{hint}");
    }

    #[test]
    fn a_place_that_was_granted_again_to_be_written_can_be() {
        let place = |writable| FixedPath {
            id: "data".to_owned(),
            path: "/srv/data".into(),
            writable,
        };
        let of = |places: Vec<FixedPath>| {
            let mut permissions = Permissions::default();
            permissions.fs.paths = places;
            permissions
        };
        let writable = |granted: Vec<FixedPath>| {
            let subject = Subject {
                plugin: "org.example.x".to_owned(),
                version: "1.0.0".to_owned(),
                digest: String::new(),
                family: "storage".to_owned(),
                grants: Grants::new(of(vec![place(true)]), of(granted)),
                limits: SubjectLimits::default(),
                config: hutch_driver::Options::new(),
            };
            subject.granter().fs_path("data").map(|(_, writable)| writable).ok()
        };
        assert_eq!(writable(vec![place(false), place(true)]), Some(true));
        assert_eq!(writable(vec![place(false)]), Some(false));
        assert_eq!(writable(Vec::new()), None);
    }
}
