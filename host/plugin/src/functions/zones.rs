//! `records`: the content of the zone of a call.

use hutch_broker::{Request, Response};
use hutch_driver::zone;

use super::Answer;
use crate::bindings::host::records;
use crate::state::CallState;

fn record_set(set: zone::RecordSet) -> records::RecordSet {
    records::RecordSet {
        name: set.name,
        kind: set.kind,
        ttl: set.ttl,
        values: set.values,
    }
}

fn record_sets(sets: Vec<zone::RecordSet>) -> Vec<records::RecordSet> {
    sets.into_iter().map(record_set).collect()
}

fn change(change: zone::Change) -> records::Change {
    records::Change {
        version: change.version,
        removed: record_sets(change.removed),
        added: record_sets(change.added),
    }
}

impl records::Host for CallState {
    async fn version(&mut self) -> Answer<u64> {
        self.shaped(Request::RecordsVersion, |response| match response {
            Response::Version(version) => Some(version),
            _ => None,
        })
        .await
    }

    async fn page(
        &mut self,
        version: u64,
        after: Option<records::Position>,
        limit: u32,
    ) -> Answer<Vec<records::RecordSet>> {
        let after = after.map(|after| zone::Position {
            name: after.name,
            kind: after.kind,
        });
        self.shaped(
            Request::RecordsPage { version, after, limit },
            |response| match response {
                Response::RecordSets(sets) => Some(record_sets(sets)),
                _ => None,
            },
        )
        .await
    }

    async fn changes(&mut self, since: u64) -> Answer<Option<Vec<records::Change>>> {
        self.shaped(Request::RecordsChanges { since }, |response| match response {
            Response::Changes(changes) => Some(changes.map(|all| all.into_iter().map(change).collect())),
            _ => None,
        })
        .await
    }
}
