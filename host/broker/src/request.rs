//! The messages between a plugin and the broker, one for each function of `wit/host/v0/host.wit`.
//!
//! They carry copies and names only: no pointer, no descriptor. What can't be copied is named by an id that the broker
//! resolves in the caller's [`crate::CallContext`].

use hutch_driver::TreePath;
use hutch_driver::zone::Position;
use serde::{Deserialize, Serialize};

/// How serious a line of a plugin's log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// For following single steps.
    Trace,
    /// For finding faults.
    Debug,
    /// What an operator wants to know.
    Info,
    /// Something is wrong, and the work goes on.
    Warn,
    /// The work can't go on.
    Error,
}

/// A function of the host, with its arguments. Meanings are those of the functions in `wit/host`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// `log.write`.
    Log {
        /// How serious.
        level: LogLevel,
        /// The line.
        message: String,
        /// Names and values that go with it.
        fields: Vec<(String, String)>,
    },
    /// `metric.count`.
    MetricCount {
        /// The counter, without the plugin's prefix.
        name: String,
        /// What is added.
        delta: u64,
    },
    /// `metric.gauge`.
    MetricGauge {
        /// The gauge, without the plugin's prefix.
        name: String,
        /// What it shows from now on.
        value: i64,
    },
    /// `config.get`.
    ConfigGet {
        /// The key in the operator's settings for the plugin.
        key: String,
    },
    /// `kv.get`.
    KvGet {
        /// The key.
        key: String,
    },
    /// `kv.set`.
    KvSet {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// `kv.compare-and-set`.
    KvCompareAndSet {
        /// The key.
        key: String,
        /// What it must hold; `None`: nothing.
        expected: Option<Vec<u8>>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// `kv.delete`.
    KvDelete {
        /// The key.
        key: String,
    },
    /// `kv.keys`.
    KvKeys {
        /// What the keys begin with.
        prefix: String,
        /// Only keys after this one.
        after: Option<String>,
        /// At most so many.
        limit: u32,
    },
    /// `progress.report`.
    ProgressReport {
        /// What is going on, with the unit of the numbers.
        stage: String,
        /// How far it is.
        done: u64,
        /// How far it has to go.
        total: Option<u64>,
    },
    /// `progress.cancelled`.
    Cancelled,

    /// `fs.stat`.
    FsStat {
        /// What is asked about.
        at: TreePath,
    },
    /// `fs.make-dir`.
    FsMakeDir {
        /// The directory.
        at: TreePath,
        /// Its permission bits.
        mode: u32,
    },
    /// `fs.list-dir`.
    FsListDir {
        /// The directory.
        at: TreePath,
        /// Only names after this one.
        after: Option<String>,
        /// At most so many.
        limit: u32,
    },
    /// `fs.read-file`.
    FsReadFile {
        /// The file.
        at: TreePath,
    },
    /// `fs.write-file`.
    FsWriteFile {
        /// The file.
        at: TreePath,
        /// All that it holds afterwards.
        data: Vec<u8>,
        /// Its permission bits.
        mode: u32,
    },
    /// `fs.write-part`.
    FsWritePart {
        /// The file.
        at: TreePath,
        /// Where the piece begins, in bytes.
        offset: u64,
        /// What the file holds from there to its end.
        data: Vec<u8>,
        /// Its permission bits.
        mode: u32,
    },
    /// `fs.replace-file`.
    FsReplaceFile {
        /// The new file.
        source: TreePath,
        /// Its place below the same root, and the old file's.
        to: TreePath,
    },
    /// `fs.rename`.
    FsRename {
        /// What is renamed.
        source: TreePath,
        /// Its new place below the same root.
        to: TreePath,
    },
    /// `fs.discard`.
    FsDiscard {
        /// The file or tree.
        at: TreePath,
    },
    /// `fs.copy-tree`.
    FsCopyTree {
        /// The tree.
        source: TreePath,
        /// Where its copy appears.
        to: TreePath,
    },
    /// `fs.copy-merged`.
    FsCopyMerged {
        /// Read-only layers, uppermost first, at least one.
        layers: Vec<TreePath>,
        /// Where the copy of what they show together appears.
        to: TreePath,
    },
    /// `fs.features`.
    FsFeatures {
        /// The root's id.
        root: String,
    },
    /// `fs.space`.
    FsSpace {
        /// The root's id.
        root: String,
    },
    /// `fs.usage`.
    FsUsage {
        /// The tree.
        at: TreePath,
    },
    /// `fs.set-quota`.
    FsSetQuota {
        /// The tree.
        at: TreePath,
        /// Its limit; `None`: none.
        bytes: Option<u64>,
    },

    /// `link.ensure-bridge`.
    LinkEnsureBridge {
        /// The bridge.
        name: String,
        /// Its MAC address.
        hwaddr: Option<String>,
        /// Its largest packet, in bytes.
        mtu: Option<u32>,
    },
    /// `link.ensure-veth`.
    LinkEnsureVeth {
        /// The host's end.
        name: String,
        /// The bridge that the host's end becomes a port of.
        bridge: Option<String>,
        /// The id of the guest's network namespace.
        netns: String,
        /// The name of the end in there.
        guest_name: String,
        /// The MAC address of the end in there.
        hwaddr: String,
        /// Of both ends, in bytes.
        mtu: Option<u32>,
        /// As in [`Request::LinkSetOptions`], for the host's end.
        options: Vec<(String, String)>,
    },
    /// `link.ensure-macvlan`.
    LinkEnsureMacvlan {
        /// The interface of the machine that it lies on.
        parent: String,
        /// The id of the guest's network namespace.
        netns: String,
        /// Its name in there.
        guest_name: String,
        /// Its MAC address.
        hwaddr: String,
        /// `private`, `vepa`, `bridge`.
        mode: String,
        /// In bytes; `None` for its parent's.
        mtu: Option<u32>,
    },
    /// `link.delete-macvlan`.
    LinkDeleteMacvlan {
        /// The id of the guest's network namespace.
        netns: String,
        /// Its name in there.
        guest_name: String,
        /// Its MAC address.
        hwaddr: String,
    },
    /// `link.delete`.
    LinkDelete {
        /// The interface.
        name: String,
    },
    /// `link.get`.
    LinkGet {
        /// The interface.
        name: String,
    },
    /// `link.set-addresses`.
    LinkSetAddresses {
        /// The interface.
        name: String,
        /// With prefix lengths.
        addresses: Vec<String>,
    },
    /// `link.set-up`.
    LinkSetUp {
        /// The interface.
        name: String,
        /// Up or down.
        up: bool,
    },
    /// `link.set-options`.
    LinkSetOptions {
        /// The interface.
        name: String,
        /// Settings as `wit/host` lists them.
        options: Vec<(String, String)>,
    },
    /// `link.limit-sent`.
    LinkLimitSent {
        /// The interface.
        name: String,
        /// The limit; none lifts it.
        bits_per_second: Option<u64>,
    },
    /// `link.subnets-in-use`.
    LinkSubnetsInUse,

    /// `filter.replace-table`.
    FilterReplaceTable {
        /// The table, without the host's prefix.
        name: String,
        /// `ip`, `ip6`, `inet`, `arp`, `bridge`.
        family: String,
        /// A JSON array of nftables objects.
        ruleset: String,
    },
    /// `filter.change-elements`.
    FilterChangeElements {
        /// The table, without the host's prefix.
        name: String,
        /// As in [`Request::FilterReplaceTable`].
        family: String,
        /// The set or map.
        set: String,
        /// Elements in JSON that are added.
        add: Vec<String>,
        /// Elements in JSON that are removed.
        remove: Vec<String>,
    },
    /// `filter.delete-table`.
    FilterDeleteTable {
        /// The table, without the host's prefix.
        name: String,
        /// As in [`Request::FilterReplaceTable`].
        family: String,
    },

    /// `service.ensure`.
    ServiceEnsure {
        /// The service.
        name: String,
        /// The program's name, without a directory.
        program: String,
        /// Its arguments; `{dir}` stands for the service's directory.
        args: Vec<String>,
        /// The account that it runs as; `None` leaves that to the program.
        user: Option<String>,
    },
    /// `service.remove`.
    ServiceRemove {
        /// The service.
        name: String,
    },
    /// `service.status`.
    ServiceStatus {
        /// The service.
        name: String,
    },
    /// `service.signal`.
    ServiceSignal {
        /// The service.
        name: String,
        /// `hup`, `usr1`, `usr2`.
        signal: String,
    },
    /// `service.write-file`.
    ServiceWriteFile {
        /// The service.
        name: String,
        /// Relative to its directory.
        path: String,
        /// All that the file holds afterwards.
        data: Vec<u8>,
    },
    /// `service.read-file`.
    ServiceReadFile {
        /// The service.
        name: String,
        /// Relative to its directory.
        path: String,
    },
    /// `service.remove-file`.
    ServiceRemoveFile {
        /// The service.
        name: String,
        /// Relative to its directory.
        path: String,
    },
    /// `service.list-files`.
    ServiceListFiles {
        /// The service.
        name: String,
        /// A directory, relative to the service's; empty for that itself.
        path: String,
    },

    /// `command.run`.
    CommandRun {
        /// The program's name, without a directory.
        program: String,
        /// Its arguments; `{tree:N}` stands for the path of `trees[N]`.
        args: Vec<String>,
        /// Additions to the environment.
        env: Vec<(String, String)>,
        /// Trees that the arguments refer to.
        trees: Vec<TreePath>,
    },

    /// `http.get`.
    HttpGet {
        /// The address.
        url: String,
        /// Headers of the request.
        headers: Vec<(String, String)>,
        /// The largest body that is wanted, in bytes.
        limit: Option<u64>,
    },

    /// `watch.changed`.
    WatchChanged {
        /// What changed.
        topic: String,
    },
    /// `watch.service-file`.
    WatchServiceFile {
        /// The service.
        service: String,
        /// The file, relative to the service's directory.
        path: String,
        /// What its change means.
        topic: String,
    },

    /// `system.architecture`.
    SystemArchitecture,
    /// `system.package-sources`.
    SystemPackageSources,

    /// `records.version`.
    RecordsVersion,
    /// `records.page`.
    RecordsPage {
        /// The version that is read.
        version: u64,
        /// Only record sets behind this place.
        after: Option<Position>,
        /// At most so many.
        limit: u32,
    },
    /// `records.changes`.
    RecordsChanges {
        /// The version that is known.
        since: u64,
    },
}

impl Request {
    /// The interface of `wit/host` that the function belongs to, which is also the name of its permission.
    pub fn interface(&self) -> &'static str {
        self.function().split_once('.').map_or("", |(interface, _)| interface)
    }

    /// The function as `wit/host` names it: `fs.copy-tree`.
    pub fn function(&self) -> &'static str {
        match self {
            Self::Log { .. } => "log.write",
            Self::MetricCount { .. } => "metric.count",
            Self::MetricGauge { .. } => "metric.gauge",
            Self::ConfigGet { .. } => "config.get",
            Self::KvGet { .. } => "kv.get",
            Self::KvSet { .. } => "kv.set",
            Self::KvCompareAndSet { .. } => "kv.compare-and-set",
            Self::KvDelete { .. } => "kv.delete",
            Self::KvKeys { .. } => "kv.keys",
            Self::ProgressReport { .. } => "progress.report",
            Self::Cancelled => "progress.cancelled",
            Self::FsStat { .. } => "fs.stat",
            Self::FsMakeDir { .. } => "fs.make-dir",
            Self::FsListDir { .. } => "fs.list-dir",
            Self::FsReadFile { .. } => "fs.read-file",
            Self::FsWriteFile { .. } => "fs.write-file",
            Self::FsWritePart { .. } => "fs.write-part",
            Self::FsReplaceFile { .. } => "fs.replace-file",
            Self::FsRename { .. } => "fs.rename",
            Self::FsDiscard { .. } => "fs.discard",
            Self::FsCopyTree { .. } => "fs.copy-tree",
            Self::FsCopyMerged { .. } => "fs.copy-merged",
            Self::FsFeatures { .. } => "fs.features",
            Self::FsSpace { .. } => "fs.space",
            Self::FsUsage { .. } => "fs.usage",
            Self::FsSetQuota { .. } => "fs.set-quota",
            Self::LinkEnsureBridge { .. } => "link.ensure-bridge",
            Self::LinkEnsureVeth { .. } => "link.ensure-veth",
            Self::LinkEnsureMacvlan { .. } => "link.ensure-macvlan",
            Self::LinkDeleteMacvlan { .. } => "link.delete-macvlan",
            Self::LinkDelete { .. } => "link.delete",
            Self::LinkGet { .. } => "link.get",
            Self::LinkSetAddresses { .. } => "link.set-addresses",
            Self::LinkSetUp { .. } => "link.set-up",
            Self::LinkSetOptions { .. } => "link.set-options",
            Self::LinkLimitSent { .. } => "link.limit-sent",
            Self::LinkSubnetsInUse => "link.subnets-in-use",
            Self::FilterReplaceTable { .. } => "filter.replace-table",
            Self::FilterChangeElements { .. } => "filter.change-elements",
            Self::FilterDeleteTable { .. } => "filter.delete-table",
            Self::ServiceEnsure { .. } => "service.ensure",
            Self::ServiceRemove { .. } => "service.remove",
            Self::ServiceStatus { .. } => "service.status",
            Self::ServiceSignal { .. } => "service.signal",
            Self::ServiceWriteFile { .. } => "service.write-file",
            Self::ServiceReadFile { .. } => "service.read-file",
            Self::ServiceRemoveFile { .. } => "service.remove-file",
            Self::ServiceListFiles { .. } => "service.list-files",
            Self::CommandRun { .. } => "command.run",
            Self::HttpGet { .. } => "http.get",
            Self::WatchChanged { .. } => "watch.changed",
            Self::WatchServiceFile { .. } => "watch.service-file",
            Self::SystemArchitecture => "system.architecture",
            Self::SystemPackageSources => "system.package-sources",
            Self::RecordsVersion => "records.version",
            Self::RecordsPage { .. } => "records.page",
            Self::RecordsChanges { .. } => "records.changes",
        }
    }

    /// The name of the [`crate::Response`] variant that answers this request when it succeeds.
    pub fn response_shape(&self) -> &'static str {
        match self {
            Self::KvCompareAndSet { .. } | Self::Cancelled => "Bool",
            Self::KvGet { .. } | Self::FsReadFile { .. } | Self::ServiceReadFile { .. } => "Bytes",
            Self::ConfigGet { .. } | Self::SystemArchitecture => "Text",
            Self::KvKeys { .. }
            | Self::FsFeatures { .. }
            | Self::LinkSubnetsInUse
            | Self::ServiceListFiles { .. }
            | Self::SystemPackageSources => "Strings",
            Self::FsStat { .. } => "FileInfo",
            Self::FsListDir { .. } => "DirEntries",
            Self::FsSpace { .. } => "Space",
            Self::FsUsage { .. } => "Size",
            Self::LinkGet { .. } => "LinkInfo",
            Self::ServiceStatus { .. } => "ServiceStatus",
            Self::CommandRun { .. } => "CommandOutput",
            Self::HttpGet { .. } => "HttpResponse",
            Self::RecordsVersion => "Version",
            Self::RecordsPage { .. } => "RecordSets",
            Self::RecordsChanges { .. } => "Changes",
            _ => "Unit",
        }
    }
}
