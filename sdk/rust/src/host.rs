//! The host, as a driver sees it.
//!
//! [`Host`] has one method for every function of `hutch:host`, named `interface_function`. [`Imports`] is the real one;
//! [`crate::testing::FakeHost`] is for tests.

use crate::bindings::imports::hutch::host as wire;
use crate::{Result, TreePath};

pub use wire::command::Output as CommandOutput;
pub use wire::fs::{DirEntry, FileInfo, SpaceInfo};
pub use wire::http::Response as HttpResponse;
pub use wire::link::LinkInfo;
pub use wire::log::Level;
pub use wire::records::{Change, Position, RecordSet};
pub use wire::service::ServiceStatus;

/// A pair of interfaces to be made: see `link.ensure-veth` in `hutch:host`.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// The host's end.
    pub name: &'a str,
    /// The bridge that the host's end is a port of.
    pub bridge: Option<&'a str>,
    /// The id of the network namespace that the other end goes to.
    pub netns: &'a str,
    /// The name of the other end.
    pub guest_name: &'a str,
    /// The MAC address of the other end.
    pub hwaddr: &'a str,
    /// In bytes, of both ends.
    pub mtu: Option<u32>,
    /// Settings of the host's end, as in [`Host::link_set_options`].
    pub options: &'a [(String, String)],
}

/// An interface of the kind macvlan to be made: see `link.ensure-macvlan` in `hutch:host`.
#[derive(Clone, Copy, Debug)]
pub struct Macvlan<'a> {
    /// The interface of the machine that it lies on.
    pub parent: &'a str,
    /// The id of the network namespace that it goes to.
    pub netns: &'a str,
    /// Its name in there.
    pub guest_name: &'a str,
    /// Its MAC address.
    pub hwaddr: &'a str,
    /// `private`, `vepa` or `bridge`.
    pub mode: &'a str,
    /// In bytes; `None` for its parent's.
    pub mtu: Option<u32>,
}

/// What the host offers to a driver. Each function that reaches anything outside the sandbox needs a permission; without it
/// the call fails with `not-requested` or `not-granted`.
///
/// # Errors
/// Every method that answers with a [`Result`] fails with the codes of `hutch:host/types.error`; what a method adds to that
/// is said in the WIT package.
pub trait Host {
    /// A line for the operator, under the driver's name.
    fn log(&self, level: Level, message: &str, fields: &[(String, String)]);
    /// Adds to a counter of `/1.0/metrics`.
    fn metric_count(&self, name: &str, delta: u64);
    /// Sets a gauge of `/1.0/metrics`.
    fn metric_gauge(&self, name: &str, value: i64);
    /// A setting of the operator's for the driver as a whole.
    fn config_get(&self, key: &str) -> Option<String>;
    /// A value of the driver's own store.
    fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>>;
    /// Keeps a value, over restarts and upgrades.
    fn kv_set(&self, key: &str, value: &[u8]) -> Result<()>;
    /// Sets a key if it holds what is expected (`None`: if it is not there), and says whether it did.
    fn kv_compare_and_set(&self, key: &str, expected: Option<&[u8]>, value: &[u8]) -> Result<bool>;
    /// Takes a key away; one that is not there is a success.
    fn kv_delete(&self, key: &str) -> Result<()>;
    /// Keys that begin with `prefix`, in order, after `after`, at most `limit`.
    fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>>;
    /// Tells whoever waits how far the work is. `stage` names the unit in words.
    fn progress(&self, stage: &str, done: u64, total: Option<u64>);
    /// Whether the caller has lost interest.
    fn cancelled(&self) -> bool;
    /// What is at a place; `None` for nothing.
    fn fs_stat(&self, at: &TreePath) -> Result<Option<FileInfo>>;
    /// Makes a directory with exactly this mode, and those above it with 0700. One that is there is a success.
    fn fs_make_dir(&self, at: &TreePath, mode: u32) -> Result<()>;
    /// Entries in the order of their names, after `after`, at most `limit`.
    fn fs_list_dir(&self, at: &TreePath, after: Option<&str>, limit: u32) -> Result<Vec<DirEntry>>;
    /// A file of at most 1 MiB; `None` where there is none.
    fn fs_read_file(&self, at: &TreePath) -> Result<Option<Vec<u8>>>;
    /// Replaces a file as a whole; its directory must be there.
    fn fs_write_file(&self, at: &TreePath, data: &[u8], mode: u32) -> Result<()>;
    /// What a file holds from `offset` on becomes `data`; 0 makes the file. For files too large for one call.
    fn fs_write_part(&self, at: &TreePath, offset: u64, data: &[u8], mode: u32) -> Result<()>;
    /// Puts a file in the place of another; repeated after success it succeeds.
    fn fs_replace_file(&self, source: &TreePath, to: &TreePath) -> Result<()>;
    /// Moves within a root. `already-exists` when `to` is there; repeated after success it succeeds.
    fn fs_rename(&self, source: &TreePath, to: &TreePath) -> Result<()>;
    /// Takes a file or tree away at once and removes it in the background. Nothing there is a success.
    fn fs_discard(&self, at: &TreePath) -> Result<()>;
    /// Copies a tree with everything about it. `to` appears complete or not at all.
    fn fs_copy_tree(&self, source: &TreePath, to: &TreePath) -> Result<()>;
    /// Copies the tree that an overlay of `layers`, uppermost first, shows.
    fn fs_copy_merged(&self, layers: &[TreePath], to: &TreePath) -> Result<()>;
    /// What the root's file system can do: `reflink`, `project-quota`, `overlay-upper`.
    fn fs_features(&self, root: &str) -> Result<Vec<String>>;
    /// How full the root's file system is.
    fn fs_space(&self, root: &str) -> Result<SpaceInfo>;
    /// Bytes used below a place; `None` where only a walk could tell.
    fn fs_usage(&self, at: &TreePath) -> Result<Option<u64>>;
    /// Limits a tree; `None` lifts the limit. `unsupported` without project quotas.
    fn fs_set_quota(&self, at: &TreePath, bytes: Option<u64>) -> Result<()>;
    /// Makes a bridge, or changes the one of that name to match.
    fn link_ensure_bridge(&self, name: &str, hwaddr: Option<&str>, mtu: Option<u32>) -> Result<()>;
    /// Makes a pair of interfaces, one end in an instance's namespace.
    fn link_ensure_veth(&self, veth: &Veth<'_>) -> Result<()>;
    /// Makes an interface of the kind macvlan in an instance's namespace, on the interface that the network's configuration names under
    /// `parent`.
    fn link_ensure_macvlan(&self, macvlan: &Macvlan<'_>) -> Result<()>;
    /// Removes the macvlan with this hardware address or else this name from a namespace; one that is not there is a success.
    fn link_delete_macvlan(&self, netns: &str, guest_name: &str, hwaddr: &str) -> Result<()>;
    /// Removes an interface; one that is not there is a success.
    fn link_delete(&self, name: &str) -> Result<()>;
    /// An interface as it is.
    fn link_get(&self, name: &str) -> Result<Option<LinkInfo>>;
    /// Sets exactly these addresses, beside link-local ones.
    fn link_set_addresses(&self, name: &str, addresses: &[String]) -> Result<()>;
    /// Brings an interface up or down.
    fn link_set_up(&self, name: &str, up: bool) -> Result<()>;
    /// Settings such as `ipv4.forwarding`; see the WIT package for all.
    fn link_set_options(&self, name: &str, options: &[(String, String)]) -> Result<()>;
    /// Limits what the host sends by an interface, in bits per second, or lifts the limit.
    fn link_limit_sent(&self, name: &str, bits_per_second: Option<u64>) -> Result<()>;
    /// Subnets that the machine's addresses and routes use.
    fn link_subnets_in_use(&self) -> Result<Vec<String>>;
    /// Replaces a packet filter table in one transaction; `ruleset` as in libnftables-json(5).
    fn filter_replace_table(&self, name: &str, family: &str, ruleset: &str) -> Result<()>;
    /// Adds and removes elements of a set without touching rules.
    fn filter_change_elements(
        &self,
        name: &str,
        family: &str,
        set: &str,
        add: &[String],
        remove: &[String],
    ) -> Result<()>;
    /// Removes a table; one that is not there is a success.
    fn filter_delete_table(&self, name: &str, family: &str) -> Result<()>;
    /// Starts a helper program, or restarts it when program or arguments differ. `{dir}` in an argument is its directory.
    fn service_ensure(&self, name: &str, program: &str, args: &[String], user: Option<&str>) -> Result<()>;
    /// Stops a service and removes its directory; one that is not there is a success.
    fn service_remove(&self, name: &str) -> Result<()>;
    /// Whether and how a service runs.
    fn service_status(&self, name: &str) -> Result<Option<ServiceStatus>>;
    /// Sends `hup`, `usr1` or `usr2`.
    fn service_signal(&self, name: &str, signal: &str) -> Result<()>;
    /// Replaces a file in the service's directory.
    fn service_write_file(&self, name: &str, path: &str, data: &[u8]) -> Result<()>;
    /// A file of the service's directory.
    fn service_read_file(&self, name: &str, path: &str) -> Result<Option<Vec<u8>>>;
    /// Removes a file; one that is not there is a success.
    fn service_remove_file(&self, name: &str, path: &str) -> Result<()>;
    /// Names of the files in a directory of the service's.
    fn service_list_files(&self, name: &str, path: &str) -> Result<Vec<String>>;
    /// Runs a program to its end. `{tree:0}` in an argument is the path of the first of `trees`.
    fn command_run(
        &self,
        program: &str,
        args: &[String],
        env: &[(String, String)],
        trees: &[TreePath],
    ) -> Result<CommandOutput>;
    /// Fetches a small document; at most `limit` bytes, and 32 MiB.
    fn http_get(&self, url: &str, headers: &[(String, String)], limit: Option<u64>) -> Result<HttpResponse>;
    /// Tells the core that `leases` or `state` of this call's object changed.
    fn watch_changed(&self, topic: &str) -> Result<()>;
    /// From now on a change of a service's file does the same.
    fn watch_service_file(&self, service: &str, path: &str, topic: &str) -> Result<()>;
    /// The machine's architecture as its distribution names it (`amd64`).
    fn system_architecture(&self) -> String;
    /// The machine's package sources as one-line `deb` entries without options.
    fn system_package_sources(&self) -> Result<Vec<String>>;
    /// The version of the content of this call's zone.
    fn records_version(&self) -> Result<u64>;
    /// Its record sets after a place, at most `limit`, in canonical order; [`crate::zone::each`] reads them all.
    fn records_page(&self, version: u64, after: Option<&Position>, limit: u32) -> Result<Vec<RecordSet>>;
    /// What led from version `since` to the one that is; `None` where that is not known.
    fn records_changes(&self, since: u64) -> Result<Option<Vec<Change>>>;

    /// 64 bits that nobody can foresee.
    fn random(&self) -> u64;
}

/// The real host: calls leave the sandbox. Outside WebAssembly every method panics, because there is no host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Imports;

impl Host for Imports {
    fn log(&self, level: Level, message: &str, fields: &[(String, String)]) {
        wire::log::write(level, message, fields);
    }

    fn metric_count(&self, name: &str, delta: u64) {
        wire::metric::count(name, delta);
    }

    fn metric_gauge(&self, name: &str, value: i64) {
        wire::metric::gauge(name, value);
    }

    fn config_get(&self, key: &str) -> Option<String> {
        wire::config::get(key)
    }

    fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(wire::kv::get(key)?)
    }

    fn kv_set(&self, key: &str, value: &[u8]) -> Result<()> {
        Ok(wire::kv::set(key, value)?)
    }

    fn kv_compare_and_set(&self, key: &str, expected: Option<&[u8]>, value: &[u8]) -> Result<bool> {
        Ok(wire::kv::compare_and_set(key, expected, value)?)
    }

    fn kv_delete(&self, key: &str) -> Result<()> {
        Ok(wire::kv::delete(key)?)
    }

    fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        Ok(wire::kv::keys(prefix, after, limit)?)
    }

    fn progress(&self, stage: &str, done: u64, total: Option<u64>) {
        wire::progress::report(stage, done, total);
    }

    fn cancelled(&self) -> bool {
        wire::progress::cancelled()
    }

    fn fs_stat(&self, at: &TreePath) -> Result<Option<FileInfo>> {
        Ok(wire::fs::stat(at)?)
    }

    fn fs_make_dir(&self, at: &TreePath, mode: u32) -> Result<()> {
        Ok(wire::fs::make_dir(at, mode)?)
    }

    fn fs_list_dir(&self, at: &TreePath, after: Option<&str>, limit: u32) -> Result<Vec<DirEntry>> {
        Ok(wire::fs::list_dir(at, after, limit)?)
    }

    fn fs_read_file(&self, at: &TreePath) -> Result<Option<Vec<u8>>> {
        Ok(wire::fs::read_file(at)?)
    }

    fn fs_write_file(&self, at: &TreePath, data: &[u8], mode: u32) -> Result<()> {
        Ok(wire::fs::write_file(at, data, mode)?)
    }

    fn fs_write_part(&self, at: &TreePath, offset: u64, data: &[u8], mode: u32) -> Result<()> {
        Ok(wire::fs::write_part(at, offset, data, mode)?)
    }

    fn fs_replace_file(&self, source: &TreePath, to: &TreePath) -> Result<()> {
        Ok(wire::fs::replace_file(source, to)?)
    }

    fn fs_rename(&self, source: &TreePath, to: &TreePath) -> Result<()> {
        Ok(wire::fs::rename(source, to)?)
    }

    fn fs_discard(&self, at: &TreePath) -> Result<()> {
        Ok(wire::fs::discard(at)?)
    }

    fn fs_copy_tree(&self, source: &TreePath, to: &TreePath) -> Result<()> {
        Ok(wire::fs::copy_tree(source, to)?)
    }

    fn fs_copy_merged(&self, layers: &[TreePath], to: &TreePath) -> Result<()> {
        Ok(wire::fs::copy_merged(layers, to)?)
    }

    fn fs_features(&self, root: &str) -> Result<Vec<String>> {
        Ok(wire::fs::features(root)?)
    }

    fn fs_space(&self, root: &str) -> Result<SpaceInfo> {
        Ok(wire::fs::space(root)?)
    }

    fn fs_usage(&self, at: &TreePath) -> Result<Option<u64>> {
        Ok(wire::fs::usage(at)?)
    }

    fn fs_set_quota(&self, at: &TreePath, bytes: Option<u64>) -> Result<()> {
        Ok(wire::fs::set_quota(at, bytes)?)
    }

    fn link_ensure_bridge(&self, name: &str, hwaddr: Option<&str>, mtu: Option<u32>) -> Result<()> {
        Ok(wire::link::ensure_bridge(name, hwaddr, mtu)?)
    }

    fn link_ensure_veth(&self, veth: &Veth<'_>) -> Result<()> {
        Ok(wire::link::ensure_veth(
            veth.name,
            veth.bridge,
            veth.netns,
            veth.guest_name,
            veth.hwaddr,
            veth.mtu,
            veth.options,
        )?)
    }

    fn link_ensure_macvlan(&self, macvlan: &Macvlan<'_>) -> Result<()> {
        Ok(wire::link::ensure_macvlan(
            macvlan.parent,
            macvlan.netns,
            macvlan.guest_name,
            macvlan.hwaddr,
            macvlan.mode,
            macvlan.mtu,
        )?)
    }

    fn link_delete_macvlan(&self, netns: &str, guest_name: &str, hwaddr: &str) -> Result<()> {
        Ok(wire::link::delete_macvlan(netns, guest_name, hwaddr)?)
    }

    fn link_delete(&self, name: &str) -> Result<()> {
        Ok(wire::link::delete(name)?)
    }

    fn link_get(&self, name: &str) -> Result<Option<LinkInfo>> {
        Ok(wire::link::get(name)?)
    }

    fn link_set_addresses(&self, name: &str, addresses: &[String]) -> Result<()> {
        Ok(wire::link::set_addresses(name, addresses)?)
    }

    fn link_set_up(&self, name: &str, up: bool) -> Result<()> {
        Ok(wire::link::set_up(name, up)?)
    }

    fn link_set_options(&self, name: &str, options: &[(String, String)]) -> Result<()> {
        Ok(wire::link::set_options(name, options)?)
    }

    fn link_limit_sent(&self, name: &str, bits_per_second: Option<u64>) -> Result<()> {
        Ok(wire::link::limit_sent(name, bits_per_second)?)
    }

    fn link_subnets_in_use(&self) -> Result<Vec<String>> {
        Ok(wire::link::subnets_in_use()?)
    }

    fn filter_replace_table(&self, name: &str, family: &str, ruleset: &str) -> Result<()> {
        Ok(wire::filter::replace_table(name, family, ruleset)?)
    }

    fn filter_change_elements(
        &self,
        name: &str,
        family: &str,
        set: &str,
        add: &[String],
        remove: &[String],
    ) -> Result<()> {
        Ok(wire::filter::change_elements(name, family, set, add, remove)?)
    }

    fn filter_delete_table(&self, name: &str, family: &str) -> Result<()> {
        Ok(wire::filter::delete_table(name, family)?)
    }

    fn service_ensure(&self, name: &str, program: &str, args: &[String], user: Option<&str>) -> Result<()> {
        Ok(wire::service::ensure(name, program, args, user)?)
    }

    fn service_remove(&self, name: &str) -> Result<()> {
        Ok(wire::service::remove(name)?)
    }

    fn service_status(&self, name: &str) -> Result<Option<ServiceStatus>> {
        Ok(wire::service::status(name)?)
    }

    fn service_signal(&self, name: &str, signal: &str) -> Result<()> {
        Ok(wire::service::signal(name, signal)?)
    }

    fn service_write_file(&self, name: &str, path: &str, data: &[u8]) -> Result<()> {
        Ok(wire::service::write_file(name, path, data)?)
    }

    fn service_read_file(&self, name: &str, path: &str) -> Result<Option<Vec<u8>>> {
        Ok(wire::service::read_file(name, path)?)
    }

    fn service_remove_file(&self, name: &str, path: &str) -> Result<()> {
        Ok(wire::service::remove_file(name, path)?)
    }

    fn service_list_files(&self, name: &str, path: &str) -> Result<Vec<String>> {
        Ok(wire::service::list_files(name, path)?)
    }

    fn command_run(
        &self,
        program: &str,
        args: &[String],
        env: &[(String, String)],
        trees: &[TreePath],
    ) -> Result<CommandOutput> {
        Ok(wire::command::run(program, args, env, trees)?)
    }

    fn http_get(&self, url: &str, headers: &[(String, String)], limit: Option<u64>) -> Result<HttpResponse> {
        Ok(wire::http::get(url, headers, limit)?)
    }

    fn watch_changed(&self, topic: &str) -> Result<()> {
        Ok(wire::watch::changed(topic)?)
    }

    fn watch_service_file(&self, service: &str, path: &str, topic: &str) -> Result<()> {
        Ok(wire::watch::service_file(service, path, topic)?)
    }

    fn system_architecture(&self) -> String {
        wire::system::architecture()
    }

    fn system_package_sources(&self) -> Result<Vec<String>> {
        Ok(wire::system::package_sources()?)
    }

    fn records_version(&self) -> Result<u64> {
        Ok(wire::records::version()?)
    }

    fn records_page(&self, version: u64, after: Option<&Position>, limit: u32) -> Result<Vec<RecordSet>> {
        Ok(wire::records::page(version, after, limit)?)
    }

    fn records_changes(&self, since: u64) -> Result<Option<Vec<Change>>> {
        Ok(wire::records::changes(since)?)
    }

    fn random(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        // The keys of a `RandomState` are the system's random bytes (`wasi:random`), so an empty message hashed under
        // them is as unforeseeable; a crate for this alone would weigh more than all the rest.
        std::collections::hash_map::RandomState::new().build_hasher().finish()
    }
}
