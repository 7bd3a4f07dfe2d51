//! Plugins: `/1.0/plugins`, Hutch's own.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Timestamp;
use crate::wire::wire;

wire! {
    /// A plugin: one WebAssembly component that provides drivers.
    pub struct Plugin {
        /// Its id, a name in reverse DNS order.
        pub id: String,
        /// Its version.
        pub version: String,
        /// Its licence, as SPDX writes it.
        pub license: String,
        /// SHA-256 of the component, in hexadecimal.
        pub digest: String,
        /// The WIT world that it is written against.
        pub world: String,
        /// One line for people.
        pub description: String,
        /// `loading`, `enabled`, `failed`, `quarantined`, `disabled`.
        pub state: String,
        /// Why it can't be called, or which of its names others have taken; empty where there is nothing to say.
        pub reason: String,
        /// The names it provides, by family (`storage`, `network`, `image`).
        pub provides: BTreeMap<String, Vec<String>>,
        /// The optional interfaces that it exports.
        pub abilities: Vec<String>,
        /// Who brought it, and so where it is changed: `configuration`, `bundled`, `installed`.
        pub origin: String,
        /// Where its file came from: a file's name, an address.
        pub source: String,
        /// Who answers for its file.
        pub signature: PluginSignature,
        /// The version that a rollback goes back to; null where there is none.
        pub previous: Option<PluginVersion>,
        /// A version that waits for a grant; null where there is none.
        pub held: Option<PluginVersion>,
        /// What its manifest asks for, and what the operator granted of it.
        pub permissions: PluginPermissions,
        /// Its limits as they are in force.
        pub limits: PluginLimits,
        /// The JSON Schema of the operator's settings for it; null where it takes none.
        pub config_schema: Value,
        /// The JSON Schema of the options of its pools, networks or images; null where its own check alone decides.
        pub options_schema: Value,
        /// Faults that count towards a quarantine: those of the last minutes, unless it has run well since.
        pub recent_faults: u64,
        /// What it has done since the daemon started.
        pub metrics: PluginMetrics,
        /// When it was installed by command; never where it was not.
        pub installed_at: Timestamp,
        /// When its code was last brought into memory.
        pub loaded_at: Timestamp,
        /// Since when it is in quarantine; never where it is not.
        pub quarantined_at: Timestamp,
    }

    /// `PUT /1.0/plugins/ID/state`.
    pub struct PluginStatePut {
        /// `enable` (also out of quarantine, and loaded again where that failed) or `disable`.
        pub action: String,
    }

    /// Who answers for a plugin's file.
    pub struct PluginSignature {
        /// `signed`, `dev` (a local file without a signature), `unsigned` (the operator let it pass), `bundled` (it came with
        /// the daemon), `configured` (the configuration names it).
        pub kind: String,
        /// The publisher's name in the trust file; empty unless signed.
        pub publisher: String,
        /// The id of the key; empty unless signed.
        pub key: String,
    }

    /// Another version of a plugin.
    pub struct PluginVersion {
        /// Its version.
        pub version: String,
        /// SHA-256 of its file.
        pub digest: String,
        /// Where its file came from.
        pub source: String,
        /// Who answers for its file.
        pub signature: PluginSignature,
        /// The permissions that it waits for, one by one; none for one that does not wait for any.
        pub missing: Vec<PluginPermission>,
        /// What else the operator has to agree to before it comes into use.
        pub doubts: Vec<PluginDoubt>,
    }

    /// Why another version may not be what the operator means, whatever it asks for.
    pub struct PluginDoubt {
        /// `publisher`: somebody else answers for it than for the one in use, or nobody does; `downgrade`: it is older.
        pub kind: String,
        /// The same in words: a clause that goes on from the version's name.
        pub reason: String,
    }

    /// What a version waits for that is held.
    pub struct PluginHeld {
        /// Permissions, one by one.
        pub missing: Vec<PluginPermission>,
        /// What else the operator has to agree to.
        pub doubts: Vec<PluginDoubt>,
    }

    /// Permissions in the shape of the manifest, and one by one.
    pub struct PluginPermissions {
        /// Asked for.
        pub requested: Value,
        /// Granted.
        pub granted: Value,
        /// What is asked for, one by one.
        pub list: Vec<PluginPermission>,
        /// What is granted of it, by the names under which it is granted: narrower, maybe, than what is asked for.
        pub names: Vec<String>,
    }

    /// One thing that a plugin may be allowed.
    pub struct PluginPermission {
        /// The name under which it is granted and revoked: `link`, `service=dnsmasq`.
        pub name: String,
        /// What it lets the plugin do: a clause that goes on from "it may".
        pub meaning: String,
        /// Whether all of it is granted.
        pub granted: bool,
    }

    /// `POST /1.0/plugins` and `POST /1.0/plugins/ID/upgrade`: as JSON, or as the part `request` of a form whose part
    /// `plugin` is the file, and whose part `signature`, which may be missing, is a minisign signature of it.
    pub struct PluginsPost {
        /// Where the file is.
        pub source: PluginSource,
        /// Only take the file in and say what it is; `POST` its digest to decide about it.
        pub examine: bool,
        /// What is granted, by names; `all` that is requested, of an upgrade all that is new; `none`. Null says nothing: a new plugin
        /// is refused then, and an upgrade that asks for more is held.
        pub grants: Option<Vec<String>>,
        /// The operator's settings for it; null leaves them as they are.
        pub config: Option<BTreeMap<String, String>>,
        /// Let it pass without a signature.
        pub allow_unsigned: bool,
        /// Take an upgrade that is older than the version in use; without this it is held.
        pub allow_downgrade: bool,
        /// Take an upgrade for which somebody else answers, or nobody; without this it is held.
        pub allow_publisher: bool,
    }

    /// Where a plugin's file is.
    pub struct PluginSource {
        /// `upload` (the form's file, made here), `archive` (the form's file, carried from elsewhere), `url`, `stored` (one
        /// that was examined in the last minutes).
        pub kind: String,
        /// What a file is called, for people.
        pub name: String,
        /// The address of `url`: `https://…`, `http://…` on the machine itself, or `oci://HOST/NAME:TAG` in a registry, by `@sha256:…`
        /// instead of the tag, or by both, where the digest counts.
        pub url: String,
        /// Fetch it by plain HTTP from other machines, too.
        pub plain_http: bool,
        /// The address of its signature; empty where that is the file's with `.minisig` behind it. A registry has it with the file.
        pub signature_url: String,
        /// What its digest has to be; empty where nothing is said. Of `stored`: which one.
        pub digest: String,
    }

    /// What is in a file that was offered: `plugin` in the metadata of the operation.
    pub struct PluginOffer {
        /// Its id.
        pub id: String,
        /// Its version.
        pub version: String,
        /// SHA-256 of the file.
        pub digest: String,
        /// Where it came from; from a registry with the digest of the manifest, by which it is found again as it is.
        pub source: String,
        /// One line for people.
        pub description: String,
        /// Its licence.
        pub license: String,
        /// The names it provides, by family.
        pub provides: BTreeMap<String, Vec<String>>,
        /// Who answers for the file.
        pub signature: PluginSignature,
        /// The version of it that is there already; empty where there is none.
        pub present: String,
        /// What it asks for, one by one.
        pub permissions: Vec<PluginPermission>,
        /// What of that is new: the present version neither asks for it nor was granted it.
        pub more: Vec<PluginPermission>,
        /// Those of the grants in the request that name something that it asks for.
        pub grants: Vec<String>,
        /// What else there is to be agreed to before it takes the present version's place.
        pub doubts: Vec<PluginDoubt>,
    }

    /// A publisher's key.
    pub struct PluginKey {
        /// Its id, 16 hexadecimal digits, as minisign prints it.
        pub id: String,
        /// What the publisher is called here.
        pub name: String,
        /// The public key, in base64.
        pub key: String,
        /// Whether it was revoked: what it signed is refused.
        pub revoked: bool,
        /// When it was added.
        pub added_at: Timestamp,
    }

    /// `POST /1.0/plugin-keys`.
    pub struct PluginKeysPost {
        /// What the publisher is called here.
        pub name: String,
        /// The public key in base64, or the content of the file that minisign wrote it to.
        pub key: String,
    }

    /// `PUT /1.0/plugins/ID/grants`.
    pub struct PluginGrantsPut {
        /// `grant`, `revoke`, or `set` for this and nothing else.
        pub action: String,
        /// Names of permissions; `all`. With a held version, `all` grants what it waits for and takes it into use, and `none` takes it
        /// into use without.
        pub permissions: Vec<String>,
    }

    /// The limits of a plugin.
    pub struct PluginLimits {
        /// Bytes of memory of one instance.
        pub memory: u64,
        /// Milliseconds that a call may take.
        pub call_timeout_ms: u64,
        /// Calls at one time.
        pub concurrency: u64,
        /// Bytes in its key-value store.
        pub kv_bytes: u64,
    }

    /// Counters of a plugin, since the daemon started.
    pub struct PluginMetrics {
        /// Calls.
        pub calls: u64,
        /// Failed calls, by the error's code.
        pub errors: BTreeMap<String, u64>,
        /// Calls that trapped.
        pub traps: u64,
        /// Calls that took too long.
        pub timeouts: u64,
        /// Faults that counted towards a quarantine.
        pub faults: u64,
        /// Host functions that were refused.
        pub denials: u64,
        /// The same by the kind of the permission that it lacked: `fs`, `link`.
        pub denied: BTreeMap<String, u64>,
        /// How often its process was started anew after it had ended.
        pub restarts: u64,
        /// Instances that there are now, one for each call that is being made.
        pub running: u64,
        /// Time of all calls together, in microseconds.
        pub total_us: u64,
        /// Time that calls waited for their turn, in microseconds.
        pub queue_us: u64,
        /// Processor time of its guests, in microseconds.
        pub guest_us: u64,
        /// The most bytes of linear memory that one of its instances had.
        pub memory_peak: u64,
        /// Bytes of keys and values in its store.
        pub kv_bytes: u64,
        /// Median time of a call, in microseconds.
        pub p50_us: u64,
        /// The time that 99 of 100 calls stay under, in microseconds.
        pub p99_us: u64,
        /// Upper bounds of the numbers in `latency`, in microseconds.
        pub latency_bounds_us: Vec<u64>,
        /// Calls by their time: as many as were up to each bound and above the one before it, and last those above all.
        pub latency: Vec<u64>,
        /// Its functions that were called. Calls that did not get as far as to a function are `none`.
        pub functions: BTreeMap<String, PluginFunctionMetrics>,
        /// The host's functions that it called.
        pub host_functions: BTreeMap<String, PluginFunctionMetrics>,
        /// Its own counters.
        pub counts: BTreeMap<String, u64>,
        /// Its own gauges.
        pub gauges: BTreeMap<String, i64>,
    }

    /// Counters of one function.
    pub struct PluginFunctionMetrics {
        /// Calls.
        pub calls: u64,
        /// Their time together, in microseconds.
        pub total_us: u64,
        /// How they ended: `ok`, the code of an error, `other`.
        pub results: BTreeMap<String, u64>,
    }

    /// A line that a plugin logged.
    pub struct PluginLogLine {
        /// When.
        pub timestamp: Timestamp,
        /// `error`, `warn`, `info`, `debug`, `trace`.
        pub level: String,
        /// The line.
        pub message: String,
    }
}
