//! Zones that a run makes, the driver's calls with their names, and what the backend shows of a zone.

use std::process::{Command, Stdio};
use std::sync::Arc;

use hutch_driver::zone::{Content, RecordSet, ZoneDriver, ZoneRef};
use hutch_driver::{Call, Options};

use super::shown::Shown;
use crate::Stand;
use crate::case::{Answer, Outcome, Stop, ensure, fail, named, skip};

/// A record set with one value.
pub(super) fn set(name: &str, kind: &str, value: &str) -> RecordSet {
    RecordSet {
        name: name.to_owned(),
        kind: kind.to_owned(),
        ttl: 300,
        values: vec![value.to_owned()],
    }
}

/// Some of what a zone usually has.
pub(super) fn usual() -> Vec<RecordSet> {
    vec![
        set("c1", "A", "192.0.2.1"),
        set("c1", "AAAA", "2001:db8::1"),
        set("www", "CNAME", "c1"),
    ]
}

/// Other content, of which a part is the same.
pub(super) fn other() -> Vec<RecordSet> {
    vec![
        set("c1", "A", "192.0.2.9"),
        set("c2", "A", "192.0.2.2"),
        set("@", "TXT", "\"second\""),
    ]
}

/// See the module's documentation.
pub(super) struct Zone {
    driver: Arc<dyn ZoneDriver>,
    pub(super) zone: ZoneRef,
    show: Vec<String>,
}

impl Zone {
    /// A zone that was not published, with the configuration that the driver completed.
    pub(super) async fn fresh(stand: &Stand) -> Outcome<Self> {
        let name = format!("c{}.conformance.example", stand.number());
        Self::called(stand, &name).await
    }

    /// The same with a name.
    pub(super) async fn called(stand: &Stand, name: &str) -> Outcome<Self> {
        if stand.show.is_empty() {
            return skip("no program was named that prints what the backend shows: use --show or conformance.toml");
        }
        let driver = stand
            .drivers
            .zone(&stand.name)
            .map_err(|error| Stop::Fail(format!("the driver can't be called: {error}")))?;
        let zone = ZoneRef {
            project: "default".to_owned(),
            name: name.to_owned(),
            config: stand.options.clone(),
        };
        let show = stand.show.clone();
        let mut zone = Self { driver, zone, show };
        zone.zone.config = zone.validate(&stand.options, None).await?;
        Ok(zone)
    }

    /// A zone that was published at version 1 with [`usual`] content.
    pub(super) async fn published(stand: &Stand) -> Outcome<Self> {
        let zone = Self::fresh(stand).await?;
        zone.publish(1, usual()).await?;
        zone.shows(1, &usual(), "published")?;
        Ok(zone)
    }

    fn call(&self) -> Call {
        Call::new(&self.zone.project, &self.zone.name)
    }

    pub(super) async fn validate(&self, config: &Options, current: Option<&Options>) -> Answer<Options> {
        let wanted = ZoneRef {
            config: config.clone(),
            ..self.zone.clone()
        };
        let answer = self.driver.validate(&self.call(), &wanted, current).await;
        named(answer, || format!("zone.validate({config:?})"))
    }

    /// Publishes `sets` as version `version`.
    pub(super) async fn publish(&self, version: u64, sets: Vec<RecordSet>) -> Outcome<()> {
        self.publish_of(version, version, sets).await?.map_err(Stop::from)
    }

    /// Has the driver publish `version` while the content is at version `there`.
    pub(super) async fn publish_of(&self, version: u64, there: u64, sets: Vec<RecordSet>) -> Outcome<Answer> {
        let content = Content::new(&self.zone.name, there, sets)
            .map_err(|error| Stop::Fail(format!("the suite made an impossible zone: {error}")))?;
        let mut call = self.call();
        call.records = Some(Arc::new(content));
        let answer = self.driver.publish(&call, &self.zone, version).await;
        Ok(named(answer, || format!("zone.publish({}, {version})", self.zone.name)))
    }

    pub(super) async fn delete(&self) -> Answer {
        let answer = self.driver.delete(&self.call(), &self.zone).await;
        named(answer, || format!("zone.delete({})", self.zone.name))
    }

    /// Reconciles with these zones as all that are valid.
    pub(super) async fn reconcile(&self, valid: &[&Self]) -> Answer<Vec<String>> {
        let zones: Vec<ZoneRef> = valid.iter().map(|valid| valid.zone.clone()).collect();
        // It is about no zone of its own.
        let answer = self.driver.reconcile(&Call::new("default", ""), &zones).await;
        named(answer, || format!("zone.reconcile({} zones)", zones.len()))
    }

    /// What the backend shows; none where it has no such zone.
    pub(super) fn shown(&self) -> Outcome<Option<Shown>> {
        let filled = |word: &String| {
            let word = word.replace("{zone}", &self.zone.name);
            word.replace("{project}", &self.zone.project)
        };
        let line: Vec<String> = self.show.iter().map(filled).collect();
        let Some((program, arguments)) = line.split_first() else {
            return fail("no program shows the zone");
        };
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Stop::Fail(format!("can't run {program}: {error}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let shown = Shown::read(&self.zone.name, &text)?;
        // A program that fails although it printed something was cut off.
        ensure(output.status.success() || shown.is_none(), || {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{} ended with {}: {}", line.join(" "), output.status, said.trim())
        })?;
        Ok(shown)
    }

    /// Fails unless the backend shows exactly this.
    pub(super) fn shows(&self, version: u64, sets: &[RecordSet], when: &str) -> Outcome {
        match self.shown()? {
            Some(shown) => shown.is(&self.zone, version, sets, when),
            None => fail(format!("{when}: the backend shows no zone {}", self.zone.name)),
        }
    }

    /// Fails if the backend shows anything of it.
    pub(super) fn is_gone(&self, when: &str) -> Outcome {
        let shown = self.shown()?;
        ensure(shown.is_none(), || {
            format!("{when}: the backend shows {shown:?} of {}", self.zone.name)
        })
    }
}
