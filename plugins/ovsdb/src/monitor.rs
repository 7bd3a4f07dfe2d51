//! Watching a database (`ovsdb-server(7)`, 4.1.12 to 4.1.14): all that meets the conditions first, and then each change.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::schema::{ColumnKind, Schema};
use crate::{Atom, Condition, Error, Result, Row, Value};

/// The rows of a table by their ids.
pub type Table = BTreeMap<Uuid, Row>;

/// What is to be watched.
#[derive(Clone, Debug)]
pub struct Monitor {
    database: String,
    tables: BTreeMap<String, Json>,
}

impl Monitor {
    /// Nothing of it yet.
    #[must_use]
    pub fn new(database: &str) -> Self {
        Self {
            database: database.to_owned(),
            tables: BTreeMap::new(),
        }
    }

    /// These columns of a table's rows; of those alone that meet any of the conditions, where there are some.
    #[must_use]
    pub fn table<'c>(
        mut self,
        table: &str,
        columns: impl IntoIterator<Item = &'c str>,
        conditions: impl IntoIterator<Item = Condition>,
    ) -> Self {
        let columns: Vec<_> = columns.into_iter().collect();
        let conditions: Vec<_> = conditions.into_iter().map(|condition| condition.to_json()).collect();
        let mut request = json!({"columns": columns});
        if !conditions.is_empty() {
            request["where"] = Json::from(conditions);
        }
        self.tables.insert(table.to_owned(), json!([request]));
        self
    }

    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    pub(crate) fn params(&self) -> Json {
        json!([self.database, self.name(), self.tables])
    }

    /// What its updates are called: each connection has one monitor of a database.
    fn name(&self) -> Json {
        json!(["monid", self.database])
    }
}

/// What is watched, as it is.
#[derive(Clone, Debug)]
pub struct Replica {
    name: Json,
    tables: BTreeMap<String, Table>,
    schema: Schema,
}

impl Replica {
    pub(crate) fn new(monitor: &Monitor, schema: &Schema, first: &Json) -> Result<Self> {
        let missing = monitor.tables.keys().find(|table| !schema.has(table));
        if let Some(table) = missing {
            return Err(Error::Protocol(format!("the database has no table {table}")));
        }
        let mut replica = Self {
            name: monitor.name(),
            tables: monitor
                .tables
                .keys()
                .map(|table| (table.clone(), Table::new()))
                .collect(),
            schema: schema.clone(),
        };
        replica.update(first)?;
        Ok(replica)
    }

    /// A table that is watched; empty for others.
    pub fn table(&self, name: &str) -> impl Iterator<Item = (&Uuid, &Row)> {
        self.tables.get(name).into_iter().flatten()
    }

    /// A row by its id.
    #[must_use]
    pub fn row(&self, table: &str, id: Uuid) -> Option<&Row> {
        self.tables.get(table)?.get(&id)
    }

    /// Applies an update, and says whether it was one of this monitor.
    pub(crate) fn apply(&mut self, update: &Json) -> Result<bool> {
        match update.as_array().map(Vec::as_slice) {
            Some([name, tables]) if *name == self.name => self.update(tables).map(|()| true),
            Some([_, _]) => Ok(false),
            _ => Err(Error::Protocol("an update that is none".to_owned())),
        }
    }

    fn update(&mut self, tables: &Json) -> Result<()> {
        for (table, rows) in object(tables)? {
            let watched = self.tables.get_mut(table);
            let watched =
                watched.ok_or_else(|| Error::Protocol(format!("an update of {table}, which is not watched")))?;
            for (id, change) in object(rows)? {
                let id = Uuid::try_parse(id).map_err(|_| Error::Protocol("an id that is none".to_owned()))?;
                change_row(watched, id, change, |column| self.schema.kind(table, column))?;
            }
        }
        Ok(())
    }
}

fn change_row(rows: &mut Table, id: Uuid, change: &Json, kind: impl Fn(&str) -> Option<ColumnKind>) -> Result<()> {
    for (what, row) in object(change)? {
        match what.as_str() {
            "initial" | "insert" => {
                rows.insert(id, Row::from_json(row)?);
            }
            "delete" => {
                rows.remove(&id);
            }
            "modify" => {
                let known = rows.get_mut(&id);
                let known = known.ok_or_else(|| Error::Protocol("a change of a row that was never told".to_owned()))?;
                for (column, value) in Row::from_json(row)?.0 {
                    let kind = kind(&column).unwrap_or(ColumnKind::Single);
                    let old = known.0.remove(&column);
                    known.0.insert(column, changed(old, value, kind)?);
                }
            }
            other => return Err(Error::Protocol(format!("a change of the kind {other:?}"))),
        }
    }
    Ok(())
}

/// The new value of a column, from the old one and the difference. A column that was not told has its default, which is empty.
fn changed(old: Option<Value>, difference: Value, kind: ColumnKind) -> Result<Value> {
    match (kind, old, difference) {
        (ColumnKind::Single, _, new) => Ok(new),
        (ColumnKind::Set, None, Value::Set(new)) => Ok(Value::Set(new)),
        (ColumnKind::Set, Some(Value::Set(old)), Value::Set(difference)) => Ok(Value::Set(&old ^ &difference)),
        (ColumnKind::Map, None, Value::Map(new)) => Ok(Value::Map(new)),
        (ColumnKind::Map, Some(Value::Map(old)), Value::Map(difference)) => Ok(Value::Map(merge(old, difference))),
        _ => Err(Error::Protocol("a change of another kind than its column's".to_owned())),
    }
}

fn merge(mut old: BTreeMap<Atom, Atom>, difference: BTreeMap<Atom, Atom>) -> BTreeMap<Atom, Atom> {
    for (key, value) in difference {
        match old.get(&key) {
            // It is in the difference because it is in one of them alone, and here it is the old one.
            Some(same) if *same == value => {
                old.remove(&key);
            }
            _ => {
                old.insert(key, value);
            }
        }
    }
    old
}

fn object(json: &Json) -> Result<&serde_json::Map<String, Json>> {
    json.as_object()
        .ok_or_else(|| Error::Protocol("an update that is none".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica() -> Replica {
        let schema = json!({"tables": {"T": {"columns": {
            "name": {"type": "string"},
            "tag": {"type": {"key": "integer", "min": 0, "max": 1}},
            "ports": {"type": {"key": "string", "min": 0, "max": "unlimited"}},
            "ids": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}},
        }}}});
        let schema = Schema::from_json(&schema).unwrap();
        let monitor = Monitor::new("db").table("T", ["name", "tag", "ports", "ids"], []);
        let first = json!({"T": {id(): {"initial": {"name": "a", "ports": ["set", ["p", "q"]], "ids": ["map", [["k", "v"], ["l", "w"]]]}}}});
        Replica::new(&monitor, &schema, &first).unwrap()
    }

    fn id() -> String {
        Uuid::from_u128(1).to_string()
    }

    fn change(replica: &mut Replica, change: Json) -> Result<bool> {
        replica.apply(&json!([["monid", "db"], {"T": {id(): change}}]))
    }

    #[test]
    fn differences_become_what_is_there() {
        let mut replica = replica();
        let changes = json!({"modify": {
            "name": "b", "tag": 5, "ports": ["set", ["q", "r"]], "ids": ["map", [["k", "v"], ["l", "x"], ["m", "y"]]],
        }});
        assert_eq!(change(&mut replica, changes), Ok(true));
        let row = replica.row("T", Uuid::from_u128(1)).unwrap();
        assert_eq!(row.text("name"), Ok("b"));
        assert_eq!(row.optional_integer("tag"), Ok(Some(5)));
        assert_eq!(row.texts("ports"), Ok(vec!["p", "r"]));
        assert_eq!(row.0["ids"], Value::map([("l", "x"), ("m", "y")]));
        assert_eq!(change(&mut replica, json!({"modify": {"tag": ["set", []]}})), Ok(true));
        assert_eq!(
            replica.row("T", Uuid::from_u128(1)).unwrap().optional_integer("tag"),
            Ok(None)
        );
        assert_eq!(change(&mut replica, json!({"delete": null})), Ok(true));
        assert_eq!(replica.table("T").count(), 0);
    }

    #[test]
    fn nonsense_is_an_error() {
        for wrong in [
            json!({"modify": {"ports": ["map", []]}}),
            json!({"modify": {"ids": "x"}}),
            json!({"other": {}}),
            json!([]),
        ] {
            assert!(change(&mut replica(), wrong.clone()).is_err(), "{wrong}");
        }
        let mut replica = replica();
        assert!(replica.apply(&json!([["monid", "db"], {"U": {}}])).is_err());
        assert!(
            replica
                .apply(&json!([["monid", "db"], {"T": {"x": {"delete": null}}}]))
                .is_err()
        );
        assert!(replica.apply(&json!([])).is_err());
        assert_eq!(replica.apply(&json!([["monid", "other"], {}])), Ok(false));
    }
}
