//! From an instance's configuration to the specification of its container.

use hutch_api::Config;
use hutch_container::{ContainerSpec, IdMap, Limits, Rlimit, RootFs};

use crate::error::{Error, Result};
use crate::idrange::{IdRange, RANGE};
use crate::instances::devices;
use crate::instances::view::View;
use crate::machine::Machine;
use crate::records::InstanceRecord;
use crate::settings;

/// Names the container to the host. Unique on the machine, because ids are random; the name before it is for people.
pub(crate) fn host_id(record: &InstanceRecord) -> String {
    let name: String = record.name.chars().take(40).collect();
    let id = record.id.simple().to_string();
    format!("{name}-{}", &id[id.len() - 16..])
}

/// The specification of an instance's container on `root`, in the id range `ids` unless it is privileged.
///
/// # Errors
/// [`Error::Invalid`] for configuration that can't be carried out on this machine.
pub(crate) fn build(view: &View, root: RootFs, ids: Option<&IdRange>, machine: &Machine) -> Result<ContainerSpec> {
    let record = &view.record;
    let idmap = ids.map(|range| IdMap::contiguous(range.base, RANGE));
    let mut spec = ContainerSpec::new(host_id(record), idmap, root);
    spec.hostname.clone_from(&record.name);
    spec.env = environment(&view.config);
    spec.nesting = settings::is_true(&view.config, "security.nesting");
    spec.limits = limits(view, machine)?;
    spec.seccomp = settings::syscalls::policy(&view.config)
        .map_err(|error| Error::invalid(format!("Instance {:?}: {error}", record.name)))?;
    spec.rlimits = rlimits(&view.config);
    spec.mounts = devices::present(devices::mounts(&view.devices))?;
    spec.check()
        .map_err(|error| Error::invalid(format!("Instance {:?}: {error}", record.name)))?;
    Ok(spec)
}

/// The limits of an instance's container.
///
/// # Errors
/// As [`settings::limits`].
pub(crate) fn limits(view: &View, machine: &Machine) -> Result<Limits> {
    let processors = settings::processors_for(&view.record.id, &machine.cpus);
    settings::limits(&view.config, machine.memory_bytes, &processors)
}

fn environment(config: &Config) -> Vec<(String, String)> {
    let mut env = vec![(
        "PATH".to_owned(),
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    )];
    for (key, value) in config {
        if let Some(name) = key.strip_prefix("environment.") {
            env.retain(|(known, _)| known != name);
            env.push((name.to_owned(), value.clone()));
        }
    }
    env
}

fn rlimits(config: &Config) -> Vec<Rlimit> {
    config
        .iter()
        .filter_map(|(key, value)| {
            let (soft, hard) = settings::parse_rlimit(value)?;
            Some(Rlimit {
                resource: key.strip_prefix("limits.kernel.")?.to_owned(),
                soft,
                hard,
            })
        })
        .collect()
}
