//! Transactions (RFC 7047, 4.1.3 and 5.2): all of one's operations take effect, or none.

use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{Atom, Error, Result, Row, Value};

/// Which rows an operation is about (RFC 7047, 5.1, `<condition>`).
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    column: String,
    function: &'static str,
    value: Value,
}

impl Condition {
    /// The column is just this.
    pub fn is(column: &str, value: impl Into<Value>) -> Self {
        Self::of(column, "==", value)
    }

    /// The column is something else.
    pub fn is_not(column: &str, value: impl Into<Value>) -> Self {
        Self::of(column, "!=", value)
    }

    /// The column's set or map has all of these.
    pub fn includes(column: &str, value: impl Into<Value>) -> Self {
        Self::of(column, "includes", value)
    }

    /// The column's set or map has none of these.
    pub fn excludes(column: &str, value: impl Into<Value>) -> Self {
        Self::of(column, "excludes", value)
    }

    fn of(column: &str, function: &'static str, value: impl Into<Value>) -> Self {
        Self {
            column: column.to_owned(),
            function,
            value: value.into(),
        }
    }

    pub(crate) fn to_json(&self) -> Json {
        json!([self.column, self.function, self.value.to_json()])
    }
}

/// How a column is changed in relation to what it is (RFC 7047, 5.1, `<mutation>`).
#[derive(Clone, Debug, PartialEq)]
pub struct Mutation {
    column: String,
    mutator: &'static str,
    value: Value,
}

impl Mutation {
    /// Adds to a set or a map what is not there. A key of a map that is there keeps its value.
    pub fn insert(column: &str, value: impl Into<Value>) -> Self {
        Self {
            column: column.to_owned(),
            mutator: "insert",
            value: value.into(),
        }
    }

    /// Takes these elements out of a set, these pairs out of a map, or, given a set, the pairs with these keys.
    pub fn delete(column: &str, value: impl Into<Value>) -> Self {
        Self {
            column: column.to_owned(),
            mutator: "delete",
            value: value.into(),
        }
    }

    fn to_json(&self) -> Json {
        json!([self.column, self.mutator, self.value.to_json()])
    }
}

/// A row that a transaction inserts, for the columns of others that refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inserted {
    operation: usize,
    name: String,
}

impl Inserted {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// Operations that take effect together. Each that answers with something returns its number, by which [`Results`] has the answer.
#[derive(Clone, Debug)]
pub struct Transaction {
    database: String,
    operations: Vec<Json>,
}

impl Transaction {
    /// One without operations.
    #[must_use]
    pub fn new(database: &str) -> Self {
        Self {
            database: database.to_owned(),
            operations: Vec::new(),
        }
    }

    /// Whether it has no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Inserts a row. Columns that are not named get their defaults. One of a table that is not a root of the database is gone again at
    /// the end of the transaction, unless another row refers to it.
    pub fn insert(&mut self, table: &str, row: Row) -> Inserted {
        let name = format!("row{}", self.operations.len());
        let operation = self.push(json!({"op": "insert", "table": table, "row": row.to_json(), "uuid-name": name}));
        Inserted { operation, name }
    }

    /// Asks for these columns of the rows that meet all conditions.
    pub fn select<'c>(
        &mut self,
        table: &str,
        conditions: impl IntoIterator<Item = Condition>,
        columns: impl IntoIterator<Item = &'c str>,
    ) -> usize {
        let columns: Vec<_> = columns.into_iter().collect();
        self.push(json!({"op": "select", "table": table, "where": all(conditions), "columns": columns}))
    }

    /// Sets the row's columns in all rows that meet all conditions; answers with their number.
    pub fn update(&mut self, table: &str, conditions: impl IntoIterator<Item = Condition>, row: Row) -> usize {
        self.push(json!({"op": "update", "table": table, "where": all(conditions), "row": row.to_json()}))
    }

    /// Changes columns of all rows that meet all conditions; answers with their number.
    pub fn mutate(
        &mut self,
        table: &str,
        conditions: impl IntoIterator<Item = Condition>,
        mutations: impl IntoIterator<Item = Mutation>,
    ) -> usize {
        let mutations: Vec<_> = mutations.into_iter().map(|mutation| mutation.to_json()).collect();
        self.push(json!({"op": "mutate", "table": table, "where": all(conditions), "mutations": mutations}))
    }

    /// Deletes all rows that meet all conditions; answers with their number.
    pub fn delete(&mut self, table: &str, conditions: impl IntoIterator<Item = Condition>) -> usize {
        self.push(json!({"op": "delete", "table": table, "where": all(conditions)}))
    }

    /// Has the transaction fail ([`Error::is_conflict`]) unless the rows that meet all conditions have just the columns of `rows`, in any
    /// order: what was read is still so.
    pub fn wait<'c>(
        &mut self,
        table: &str,
        conditions: impl IntoIterator<Item = Condition>,
        columns: impl IntoIterator<Item = &'c str>,
        rows: impl IntoIterator<Item = Row>,
    ) {
        let columns: Vec<_> = columns.into_iter().collect();
        let rows: Vec<_> = rows.into_iter().map(|row| row.to_json()).collect();
        self.push(json!({
            "op": "wait", "timeout": 0, "table": table, "where": all(conditions), "columns": columns, "until": "==", "rows": rows,
        }));
    }

    /// Says in the database's log what this is for.
    pub fn comment(&mut self, text: &str) {
        self.push(json!({"op": "comment", "comment": text}));
    }

    fn push(&mut self, operation: Json) -> usize {
        self.operations.push(operation);
        self.operations.len() - 1
    }

    pub(crate) fn params(&self) -> Json {
        let database = std::iter::once(Json::from(self.database.as_str()));
        database.chain(self.operations.iter().cloned()).collect()
    }

    /// Which operation the number belongs to, for people.
    fn describe(&self, number: usize) -> String {
        let Some(operation) = self.operations.get(number) else {
            return "the whole transaction".to_owned();
        };
        let part = |key: &str| operation[key].as_str().unwrap_or_default().to_owned();
        match (part("op"), part("table")) {
            (kind, table) if table.is_empty() => kind,
            (kind, table) => format!("{kind} in {table}"),
        }
    }

    /// What the server answered; an error where any operation failed.
    pub(crate) fn results(&self, result: Json) -> Result<Results> {
        let Json::Array(results) = result else {
            return Err(Error::Protocol("a transaction's result is no array".to_owned()));
        };
        for (number, result) in results.iter().enumerate() {
            if let Some(code) = result["error"].as_str() {
                return Err(Error::Operation {
                    operation: self.describe(number),
                    code: code.to_owned(),
                    details: result["details"].as_str().map(str::to_owned),
                });
            }
        }
        if results.len() < self.operations.len() {
            return Err(Error::Protocol("a transaction's result is too short".to_owned()));
        }
        Ok(Results(results))
    }
}

fn all(conditions: impl IntoIterator<Item = Condition>) -> Json {
    conditions.into_iter().map(|condition| condition.to_json()).collect()
}

/// What a transaction answered, by the numbers of its operations.
#[derive(Clone, Debug)]
pub struct Results(Vec<Json>);

impl Results {
    /// The rows of a `select`.
    ///
    /// # Errors
    /// [`Error::Protocol`] where there are none.
    pub fn rows(&self, operation: usize) -> Result<Vec<Row>> {
        let rows = self.of(operation)["rows"].as_array();
        let rows = rows.ok_or_else(|| Error::Protocol("a selection without rows".to_owned()))?;
        rows.iter().map(Row::from_json).collect()
    }

    /// How many rows an `update`, a `mutate` or a `delete` was about.
    ///
    /// # Errors
    /// [`Error::Protocol`] where it does not say.
    pub fn count(&self, operation: usize) -> Result<u64> {
        let count = self.of(operation)["count"].as_u64();
        count.ok_or_else(|| Error::Protocol("a change without a number of rows".to_owned()))
    }

    /// The id of a row that was inserted.
    ///
    /// # Errors
    /// [`Error::Protocol`] where it does not say.
    pub fn inserted(&self, row: &Inserted) -> Result<Uuid> {
        match Atom::from_json(&self.of(row.operation)["uuid"])? {
            Atom::Uuid(uuid) => Ok(uuid),
            _ => Err(Error::Protocol("an insertion without an id".to_owned())),
        }
    }

    fn of(&self, operation: usize) -> &Json {
        self.0.get(operation).unwrap_or(&Json::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_operation() {
        let mut change = Transaction::new("db");
        change.insert("Port", Row::new());
        change.delete("Switch", [Condition::is("name", "x")]);
        let failed = |result| change.results(result).expect_err("an error").to_string();
        assert_eq!(
            failed(json!([{}, {"error": "constraint violation", "details": "no"}, null])),
            "the database refused delete in Switch: constraint violation: no"
        );
        // What fails at the commit stands behind the results of all operations (RFC 7047, 4.1.3).
        assert_eq!(
            failed(json!([{}, {}, {"error": "referential integrity violation"}])),
            "the database refused the whole transaction: referential integrity violation"
        );
        assert!(failed(json!([{}])).contains("too short"));
        assert!(failed(json!({})).contains("no array"));
    }

    #[test]
    fn what_is_waited_for_and_not_so_is_a_conflict() {
        let mut change = Transaction::new("db");
        change.wait("T", [], ["name"], [Row::new().with("name", "x")]);
        let error = change
            .results(json!([{"error": "timed out", "details": "…"}]))
            .expect_err("a conflict");
        assert!(error.is_conflict() && !error.is_unavailable());
    }
}
