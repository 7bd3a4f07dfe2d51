//! As much of a database's schema (RFC 7047, 3.2) as it takes to read changes of columns.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::{Error, Result};

/// How a change of a column is told (`ovsdb-server(7)`, 4.1.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// At most one value: a change is the new one.
    Single,
    /// A set: a change is what is in the old one or in the new one and not in both.
    Set,
    /// A map: a change is what is in one of them alone, and the new values of keys in both.
    Map,
}

/// The columns of a database's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    tables: BTreeMap<String, BTreeMap<String, ColumnKind>>,
}

impl Schema {
    /// # Errors
    /// [`Error::Protocol`] where it is none.
    pub fn from_json(schema: &Json) -> Result<Self> {
        let object = |json: &Json| {
            let object = json.as_object().cloned();
            object.ok_or_else(|| Error::Protocol("a schema that is none".to_owned()))
        };
        let mut tables = BTreeMap::new();
        for (name, table) in object(&schema["tables"])? {
            let columns = object(&table["columns"])?;
            let columns = columns.into_iter().map(|(name, column)| (name, kind(&column["type"])));
            tables.insert(name, columns.collect());
        }
        Ok(Self { tables })
    }

    /// The kind of a column, if there is such a one.
    #[must_use]
    pub fn kind(&self, table: &str, column: &str) -> Option<ColumnKind> {
        self.tables.get(table)?.get(column).copied()
    }

    /// Whether there is such a table.
    #[must_use]
    pub fn has(&self, table: &str) -> bool {
        self.tables.contains_key(table)
    }
}

/// Without `max` there is at most one value (RFC 7047, 3.2, `<type>`).
fn kind(of: &Json) -> ColumnKind {
    let single = matches!(&of["max"], Json::Null) || of["max"] == 1;
    match of.get("value") {
        _ if single => ColumnKind::Single,
        Some(_) => ColumnKind::Map,
        None => ColumnKind::Set,
    }
}
