//! [`Host`] in memory.

use std::collections::BTreeMap;

use super::{Command, FakeHost, FakeLink, FakeRecords, Node};
use crate::host::{
    Change, CommandOutput, DirEntry, FileInfo, Host, HttpResponse, Level, LinkInfo, Macvlan, Position, RecordSet,
    ServiceStatus, SpaceInfo, Veth,
};
use crate::{Error, Result, TreePath};

fn show(at: &TreePath) -> String {
    format!("{}:{}", at.root, at.path)
}

fn map(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

fn content(records: Option<&FakeRecords>) -> Result<&FakeRecords> {
    records.ok_or_else(|| Error::not_found("this call is not about the content of a zone"))
}

impl Host for FakeHost {
    fn log(&self, level: Level, message: &str, _fields: &[(String, String)]) {
        self.state().log.push((level, message.to_owned()));
    }

    fn metric_count(&self, _name: &str, _delta: u64) {}

    fn metric_gauge(&self, _name: &str, _value: i64) {}

    fn config_get(&self, key: &str) -> Option<String> {
        self.state().config.get(key).cloned()
    }

    fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.call(format!("kv.get {key}"), |state| Ok(state.kv.get(key).cloned()))
    }

    fn kv_set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.call(format!("kv.set {key}"), |state| {
            state.kv.insert(key.to_owned(), value.to_vec());
            Ok(())
        })
    }

    fn kv_compare_and_set(&self, key: &str, expected: Option<&[u8]>, value: &[u8]) -> Result<bool> {
        self.call(format!("kv.compare-and-set {key}"), |state| {
            let matches = state.kv.get(key).map(Vec::as_slice) == expected;
            if matches {
                state.kv.insert(key.to_owned(), value.to_vec());
            }
            Ok(matches)
        })
    }

    fn kv_delete(&self, key: &str) -> Result<()> {
        self.call(format!("kv.delete {key}"), |state| {
            state.kv.remove(key);
            Ok(())
        })
    }

    fn kv_keys(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
        self.call(format!("kv.keys {prefix}"), |state| {
            let wanted = |key: &&String| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after);
            Ok(state.kv.keys().filter(wanted).take(limit as usize).cloned().collect())
        })
    }

    fn progress(&self, _stage: &str, _done: u64, _total: Option<u64>) {}

    fn cancelled(&self) -> bool {
        self.state().cancelled
    }

    fn fs_stat(&self, at: &TreePath) -> Result<Option<FileInfo>> {
        self.call(format!("fs.stat {}", show(at)), |state| {
            state.tree.check(at)?;
            Ok(state.tree.get(at).map(|node| {
                let (size, mode) = match node {
                    Node::Directory(mode) => (0, *mode),
                    Node::File(mode, data) => (data.len() as u64, *mode),
                    Node::Whiteout => (0, 0),
                };
                FileInfo {
                    kind: node.kind().to_owned(),
                    size,
                    mode,
                    modified: 0,
                }
            }))
        })
    }

    fn fs_make_dir(&self, at: &TreePath, mode: u32) -> Result<()> {
        self.call(format!("fs.make-dir {}", show(at)), |state| {
            state.tree.check(at)?;
            state.tree.make_dir(at, mode)
        })
    }

    fn fs_list_dir(&self, at: &TreePath, after: Option<&str>, limit: u32) -> Result<Vec<DirEntry>> {
        self.call(format!("fs.list-dir {}", show(at)), |state| {
            state.tree.check(at)?;
            let entries = state.tree.list(at, after, limit as usize)?;
            Ok(entries
                .into_iter()
                .map(|(name, kind)| DirEntry {
                    name,
                    kind: kind.to_owned(),
                })
                .collect())
        })
    }

    fn fs_read_file(&self, at: &TreePath) -> Result<Option<Vec<u8>>> {
        self.call(format!("fs.read-file {}", show(at)), |state| {
            state.tree.check(at)?;
            match state.tree.get(at) {
                None => Ok(None),
                Some(Node::File(_, data)) => Ok(Some(data.clone())),
                Some(_) => Err(Error::invalid(format!("{} is not a file", show(at)))),
            }
        })
    }

    fn fs_write_file(&self, at: &TreePath, data: &[u8], mode: u32) -> Result<()> {
        self.call(format!("fs.write-file {}", show(at)), |state| {
            state.tree.check(at)?;
            state.tree.write(at, data, mode)
        })
    }

    fn fs_write_part(&self, at: &TreePath, offset: u64, data: &[u8], mode: u32) -> Result<()> {
        self.call(format!("fs.write-part {} {offset}", show(at)), |state| {
            state.tree.check(at)?;
            let mut whole = match state.tree.get(at) {
                Some(Node::File(_, held)) => held.clone(),
                None if offset == 0 => Vec::new(),
                None => return Err(Error::not_found(format!("there is no file {}", show(at)))),
                Some(_) => return Err(Error::invalid(format!("{} is not a file", show(at)))),
            };
            let offset = usize::try_from(offset).unwrap_or(usize::MAX);
            if offset > whole.len() {
                return Err(Error::invalid(format!("{} is shorter than {offset} bytes", show(at))));
            }
            whole.truncate(offset);
            whole.extend_from_slice(data);
            state.tree.write(at, &whole, mode)
        })
    }

    fn fs_replace_file(&self, source: &TreePath, to: &TreePath) -> Result<()> {
        self.call(format!("fs.replace-file {} {}", show(source), show(to)), |state| {
            state.tree.check(source)?;
            state.tree.check(to)?;
            match state.tree.get(source) {
                Some(Node::File(..)) => {
                    state.tree.discard(to);
                    state.tree.rename(source, to)
                }
                None if matches!(state.tree.get(to), Some(Node::File(..))) => Ok(()),
                _ => Err(Error::not_found(format!("there is no file {}", show(source)))),
            }
        })
    }

    fn fs_rename(&self, source: &TreePath, to: &TreePath) -> Result<()> {
        self.call(format!("fs.rename {} {}", show(source), show(to)), |state| {
            state.tree.check(source)?;
            state.tree.check(to)?;
            state.tree.rename(source, to)
        })
    }

    fn fs_discard(&self, at: &TreePath) -> Result<()> {
        self.call(format!("fs.discard {}", show(at)), |state| {
            state.tree.check(at)?;
            state.tree.discard(at);
            Ok(())
        })
    }

    fn fs_copy_tree(&self, source: &TreePath, to: &TreePath) -> Result<()> {
        self.call(format!("fs.copy-tree {} {}", show(source), show(to)), |state| {
            state.tree.check(source)?;
            state.tree.check(to)?;
            state.tree.copy_merged(std::slice::from_ref(source), to)
        })
    }

    fn fs_copy_merged(&self, layers: &[TreePath], to: &TreePath) -> Result<()> {
        let shown: Vec<String> = layers.iter().map(show).collect();
        self.call(format!("fs.copy-merged {} {}", shown.join("+"), show(to)), |state| {
            layers.iter().try_for_each(|layer| state.tree.check(layer))?;
            state.tree.check(to)?;
            state.tree.copy_merged(layers, to)
        })
    }

    fn fs_features(&self, root: &str) -> Result<Vec<String>> {
        self.call(format!("fs.features {root}"), |state| Ok(state.features.clone()))
    }

    fn fs_space(&self, root: &str) -> Result<SpaceInfo> {
        self.call(format!("fs.space {root}"), |_| {
            Ok(SpaceInfo {
                total_bytes: 1 << 30,
                used_bytes: 1 << 20,
                total_inodes: 1 << 16,
                used_inodes: 1 << 8,
            })
        })
    }

    fn fs_usage(&self, at: &TreePath) -> Result<Option<u64>> {
        self.call(format!("fs.usage {}", show(at)), |state| {
            let sizes = state.tree.below(at).into_values().map(|node| match node {
                Node::File(_, data) => data.len() as u64,
                _ => 0,
            });
            Ok(Some(sizes.sum()))
        })
    }

    fn fs_set_quota(&self, at: &TreePath, bytes: Option<u64>) -> Result<()> {
        self.call(format!("fs.set-quota {} {bytes:?}", show(at)), |state| {
            if !state.features.iter().any(|feature| feature == "project-quota") {
                return Err(Error::unsupported("the file system has no project quota"));
            }
            let key = (at.root.clone(), at.path.clone());
            match bytes {
                Some(bytes) => state.quotas.insert(key, bytes),
                None => state.quotas.remove(&key),
            };
            Ok(())
        })
    }

    fn link_ensure_bridge(&self, name: &str, hwaddr: Option<&str>, mtu: Option<u32>) -> Result<()> {
        self.call(format!("link.ensure-bridge {name}"), |state| {
            let link = state.links.entry(name.to_owned()).or_default();
            link.kind = "bridge".into();
            link.hwaddr = hwaddr.map(str::to_owned).or(link.hwaddr.take());
            link.mtu = mtu.or(link.mtu);
            Ok(())
        })
    }

    fn link_ensure_veth(&self, veth: &Veth<'_>) -> Result<()> {
        self.call(format!("link.ensure-veth {} {}", veth.name, veth.netns), |state| {
            if veth.bridge.is_some_and(|bridge| !state.links.contains_key(bridge)) {
                return Err(Error::not_found(format!("there is no interface {:?}", veth.bridge)));
            }
            let link = FakeLink {
                kind: "veth".into(),
                hwaddr: Some(veth.hwaddr.to_owned()),
                mtu: veth.mtu,
                up: true,
                master: veth.bridge.map(str::to_owned),
                addresses: Vec::new(),
                options: map(veth.options),
                guest: Some((veth.netns.to_owned(), veth.guest_name.to_owned())),
                limit: state.links.get(veth.name).and_then(|link| link.limit),
            };
            state.links.insert(veth.name.to_owned(), link);
            Ok(())
        })
    }

    fn link_ensure_macvlan(&self, macvlan: &Macvlan<'_>) -> Result<()> {
        let call = format!("link.ensure-macvlan {} {}", macvlan.parent, macvlan.netns);
        self.call(call, |state| {
            if !["private", "vepa", "bridge"].contains(&macvlan.mode) {
                return Err(Error::invalid(format!("{:?} is no mode of a macvlan", macvlan.mode)));
            }
            let link = FakeLink {
                kind: "macvlan".into(),
                hwaddr: Some(macvlan.hwaddr.to_owned()),
                mtu: macvlan.mtu,
                master: Some(macvlan.parent.to_owned()),
                options: BTreeMap::from([("mode".to_owned(), macvlan.mode.to_owned())]),
                guest: Some((macvlan.netns.to_owned(), macvlan.guest_name.to_owned())),
                ..FakeLink::default()
            };
            let key = format!("{}/{}", macvlan.netns, macvlan.guest_name);
            state.links.insert(key, link);
            Ok(())
        })
    }

    fn link_delete_macvlan(&self, netns: &str, guest_name: &str, hwaddr: &str) -> Result<()> {
        self.call(format!("link.delete-macvlan {netns} {guest_name} {hwaddr}"), |state| {
            state.links.remove(&format!("{netns}/{guest_name}"));
            Ok(())
        })
    }

    fn link_delete(&self, name: &str) -> Result<()> {
        self.call(format!("link.delete {name}"), |state| {
            state.links.remove(name);
            Ok(())
        })
    }

    fn link_get(&self, name: &str) -> Result<Option<LinkInfo>> {
        self.call(format!("link.get {name}"), |state| {
            Ok(state.links.get(name).map(|link| LinkInfo {
                name: name.to_owned(),
                kind: link.kind.clone(),
                hwaddr: link.hwaddr.clone().unwrap_or_else(|| "02:00:00:00:00:01".into()),
                mtu: link.mtu.unwrap_or(1500),
                up: link.up,
                master: link.master.clone(),
                addresses: link.addresses.clone(),
            }))
        })
    }

    fn link_set_addresses(&self, name: &str, addresses: &[String]) -> Result<()> {
        self.change_link("set-addresses", name, |link| link.addresses = addresses.to_vec())
    }

    fn link_set_up(&self, name: &str, up: bool) -> Result<()> {
        self.change_link("set-up", name, |link| link.up = up)
    }

    fn link_set_options(&self, name: &str, options: &[(String, String)]) -> Result<()> {
        if self.state().lacks_ipv6 && options.iter().any(|(key, _)| key.starts_with("ipv6.")) {
            return self.call(format!("link.set-options {name}"), |_| {
                Err(Error::not_found("there is no IPv6"))
            });
        }
        self.change_link("set-options", name, |link| link.options.extend(map(options)))
    }

    fn link_limit_sent(&self, name: &str, bits_per_second: Option<u64>) -> Result<()> {
        self.change_link("limit-sent", name, |link| link.limit = bits_per_second)
    }

    fn link_subnets_in_use(&self) -> Result<Vec<String>> {
        self.call("link.subnets-in-use".into(), |state| {
            let addresses = state.links.values().flat_map(|link| link.addresses.iter());
            Ok(state.subnets.iter().chain(addresses).cloned().collect())
        })
    }

    fn filter_replace_table(&self, name: &str, family: &str, ruleset: &str) -> Result<()> {
        self.call(format!("filter.replace-table {name} {family}"), |state| {
            state
                .tables
                .insert((family.to_owned(), name.to_owned()), ruleset.to_owned());
            Ok(())
        })
    }

    fn filter_change_elements(
        &self,
        name: &str,
        family: &str,
        set: &str,
        _add: &[String],
        _remove: &[String],
    ) -> Result<()> {
        self.call(
            format!("filter.change-elements {name} {family} {set}"),
            |state| match state.tables.contains_key(&(family.to_owned(), name.to_owned())) {
                true => Ok(()),
                false => Err(Error::not_found(format!("there is no table {name}"))),
            },
        )
    }

    fn filter_delete_table(&self, name: &str, family: &str) -> Result<()> {
        self.call(format!("filter.delete-table {name} {family}"), |state| {
            state.tables.remove(&(family.to_owned(), name.to_owned()));
            Ok(())
        })
    }

    fn service_ensure(&self, name: &str, program: &str, args: &[String], user: Option<&str>) -> Result<()> {
        self.call(format!("service.ensure {name} {program}"), |state| {
            let service = state.services.entry(name.to_owned()).or_default();
            if service.program.as_deref() != Some(program) || service.args != args || service.user.as_deref() != user {
                service.program = Some(program.to_owned());
                service.args = args.to_vec();
                service.user = user.map(str::to_owned);
                service.starts += 1;
            }
            Ok(())
        })
    }

    fn service_remove(&self, name: &str) -> Result<()> {
        self.call(format!("service.remove {name}"), |state| {
            state.services.remove(name);
            state.watches.retain(|(service, ..)| service != name);
            Ok(())
        })
    }

    fn service_status(&self, name: &str) -> Result<Option<ServiceStatus>> {
        self.call(format!("service.status {name}"), |state| {
            let running = state.services.get(name).filter(|service| service.program.is_some());
            Ok(running.map(|service| ServiceStatus {
                running: true,
                pid: Some(1),
                restarts: service.starts.saturating_sub(1),
                last_exit: None,
            }))
        })
    }

    fn service_signal(&self, name: &str, signal: &str) -> Result<()> {
        self.call(format!("service.signal {name} {signal}"), |state| {
            match state.services.get_mut(name) {
                Some(service) => {
                    service.signals.push(signal.to_owned());
                    Ok(())
                }
                None => Err(Error::not_found(format!("there is no service {name}"))),
            }
        })
    }

    fn service_write_file(&self, name: &str, path: &str, data: &[u8]) -> Result<()> {
        self.call(format!("service.write-file {name} {path}"), |state| {
            state
                .services
                .entry(name.to_owned())
                .or_default()
                .files
                .insert(path.to_owned(), data.to_vec());
            Ok(())
        })
    }

    fn service_read_file(&self, name: &str, path: &str) -> Result<Option<Vec<u8>>> {
        self.call(format!("service.read-file {name} {path}"), |state| {
            Ok(state
                .services
                .get(name)
                .and_then(|service| service.files.get(path).cloned()))
        })
    }

    fn service_remove_file(&self, name: &str, path: &str) -> Result<()> {
        self.call(format!("service.remove-file {name} {path}"), |state| {
            if let Some(service) = state.services.get_mut(name) {
                service.files.remove(path);
            }
            Ok(())
        })
    }

    fn service_list_files(&self, name: &str, path: &str) -> Result<Vec<String>> {
        self.call(format!("service.list-files {name} {path}"), |state| {
            let files = state.services.get(name).map(|service| &service.files);
            let below = files
                .into_iter()
                .flat_map(BTreeMap::keys)
                .filter_map(|file| file.strip_prefix(path)?.strip_prefix('/'));
            Ok(below.map(str::to_owned).collect())
        })
    }

    fn command_run(
        &self,
        program: &str,
        args: &[String],
        env: &[(String, String)],
        trees: &[TreePath],
    ) -> Result<CommandOutput> {
        let command = Command {
            program: program.to_owned(),
            args: args.to_vec(),
            env: env.to_vec(),
            trees: trees.to_vec(),
        };
        self.call(format!("command.run {program}"), |_| Ok(()))?;
        self.commands.borrow_mut().push(command.clone());
        let script = self.script.borrow().clone();
        script.map_or_else(
            || Err(Error::not_found(format!("there is no program {program}"))),
            |script| script(self, &command),
        )
    }

    fn http_get(&self, url: &str, _headers: &[(String, String)], limit: Option<u64>) -> Result<HttpResponse> {
        self.call(format!("http.get {url}"), |state| {
            let missing = || HttpResponse {
                status: 404,
                headers: Vec::new(),
                body: Vec::new(),
            };
            let response = state.documents.get(url).cloned().unwrap_or_else(missing);
            match limit.is_some_and(|limit| response.body.len() as u64 > limit) {
                true => Err(Error::limit(format!("{url} is larger than allowed"))),
                false => Ok(response),
            }
        })
    }

    fn watch_changed(&self, topic: &str) -> Result<()> {
        self.call(format!("watch.changed {topic}"), |state| {
            state.changed.push(topic.to_owned());
            Ok(())
        })
    }

    fn watch_service_file(&self, service: &str, path: &str, topic: &str) -> Result<()> {
        self.call(format!("watch.service-file {service} {path} {topic}"), |state| {
            let watch = (service.to_owned(), path.to_owned(), topic.to_owned());
            if !state.watches.contains(&watch) {
                state.watches.push(watch);
            }
            Ok(())
        })
    }

    fn system_architecture(&self) -> String {
        self.state().architecture.clone()
    }

    fn system_package_sources(&self) -> Result<Vec<String>> {
        self.call("system.package-sources".into(), |state| {
            Ok(state.package_sources.clone())
        })
    }

    fn records_version(&self) -> Result<u64> {
        self.call("records.version".into(), |state| {
            Ok(content(state.records.as_ref())?.version)
        })
    }

    fn records_page(&self, version: u64, after: Option<&Position>, limit: u32) -> Result<Vec<RecordSet>> {
        let place = after.map_or_else(String::new, |after| format!(" {} {}", after.name, after.kind));
        self.call(format!("records.page {version}{place}"), |state| {
            let content = content(state.records.as_ref())?;
            if content.version != version {
                return Err(Error::not_found(format!("version {version} is gone")).retryable());
            }
            let is = |set: &RecordSet, after: &Position| set.name == after.name && set.kind == after.kind;
            let begin = match after {
                None => 0,
                Some(after) => match content.sets.iter().position(|set| is(set, after)) {
                    Some(at) => at + 1,
                    None => return Err(Error::invalid(format!("there is no record set{place} to go on from"))),
                },
            };
            Ok(content.sets.iter().skip(begin).take(limit as usize).cloned().collect())
        })
    }

    fn records_changes(&self, since: u64) -> Result<Option<Vec<Change>>> {
        self.call(format!("records.changes {since}"), |state| {
            let content = content(state.records.as_ref())?;
            let known = since == content.version || content.changes.iter().any(|change| change.version == since + 1);
            let later = content.changes.iter().filter(|change| change.version > since);
            Ok(known.then(|| later.cloned().collect()))
        })
    }

    fn random(&self) -> u64 {
        // A full-period generator (Knuth's MMIX constants), so that tests are the same each time and values differ.
        let next = self
            .entropy
            .get()
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.entropy.set(next);
        next
    }
}

impl FakeHost {
    fn change_link(&self, function: &str, name: &str, change: impl FnOnce(&mut FakeLink)) -> Result<()> {
        self.call(format!("link.{function} {name}"), |state| {
            match state.links.get_mut(name) {
                Some(link) => {
                    change(link);
                    Ok(())
                }
                None => Err(Error::not_found(format!("there is no interface {name}"))),
            }
        })
    }
}
