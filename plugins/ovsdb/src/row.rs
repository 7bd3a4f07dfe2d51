//! Rows: what a table has of one thing, or what is to be written of it.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{Atom, Error, Result, Value};

/// Values by columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(pub BTreeMap<String, Value>);

impl Row {
    /// One without columns.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with this column.
    #[must_use]
    pub fn with(mut self, column: &str, value: impl Into<Value>) -> Self {
        self.0.insert(column.to_owned(), value.into());
        self
    }

    /// As the protocol writes it.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.0
            .iter()
            .map(|(column, value)| (column.clone(), value.to_json()))
            .collect()
    }

    /// # Errors
    /// [`Error::Protocol`] where it is none.
    pub fn from_json(value: &serde_json::Value) -> Result<Self> {
        let columns = value
            .as_object()
            .ok_or_else(|| Error::Protocol("expected a row".to_owned()))?;
        let column = |(column, value): (&String, _)| Ok((column.clone(), Value::from_json(value)?));
        columns.iter().map(column).collect::<Result<_>>().map(Self)
    }

    /// The row's own id: the column `_uuid`.
    ///
    /// # Errors
    /// [`Error::Column`] where it was not asked for.
    pub fn id(&self) -> Result<Uuid> {
        self.uuid("_uuid")
    }

    /// The column of a text.
    ///
    /// # Errors
    /// [`Error::Column`] where it is something else.
    pub fn text(&self, column: &str) -> Result<&str> {
        self.optional_text(column)?.ok_or_else(|| wrong(column, "a string"))
    }

    /// The column of a text that may not be there.
    ///
    /// # Errors
    /// [`Error::Column`] where it is something else.
    pub fn optional_text(&self, column: &str) -> Result<Option<&str>> {
        match self.optional(column)? {
            None => Ok(None),
            Some(Atom::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(column, "a string")),
        }
    }

    /// The column of a row's id.
    ///
    /// # Errors
    /// [`Error::Column`] where it is something else.
    pub fn uuid(&self, column: &str) -> Result<Uuid> {
        match self.optional(column)? {
            Some(Atom::Uuid(uuid)) => Ok(*uuid),
            _ => Err(wrong(column, "a uuid")),
        }
    }

    /// The column of an integer that may not be there.
    ///
    /// # Errors
    /// [`Error::Column`] where it is something else.
    pub fn optional_integer(&self, column: &str) -> Result<Option<i64>> {
        match self.optional(column)? {
            None => Ok(None),
            Some(Atom::Integer(number)) => Ok(Some(*number)),
            Some(_) => Err(wrong(column, "an integer")),
        }
    }

    /// The column of a yes or no that may not be there.
    ///
    /// # Errors
    /// [`Error::Column`] where it is something else.
    pub fn optional_boolean(&self, column: &str) -> Result<Option<bool>> {
        match self.optional(column)? {
            None => Ok(None),
            Some(Atom::Boolean(yes)) => Ok(Some(*yes)),
            Some(_) => Err(wrong(column, "a boolean")),
        }
    }

    /// The column of rows' ids.
    ///
    /// # Errors
    /// [`Error::Column`] where it is something else.
    pub fn uuids(&self, column: &str) -> Result<Vec<Uuid>> {
        self.elements(column, "a set of uuids", |atom| match atom {
            Atom::Uuid(uuid) => Some(*uuid),
            _ => None,
        })
    }

    /// The column of texts.
    ///
    /// # Errors
    /// [`Error::Column`] where it is something else.
    pub fn texts(&self, column: &str) -> Result<Vec<&str>> {
        self.elements(column, "a set of strings", |atom| match atom {
            Atom::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// What a map of texts has for a key.
    ///
    /// # Errors
    /// [`Error::Column`] where it is something else.
    pub fn mapped(&self, column: &str, key: &str) -> Result<Option<&str>> {
        let expected = "a map of strings";
        let Value::Map(pairs) = self.column(column)? else {
            return Err(wrong(column, expected));
        };
        match pairs.get(&Atom::from(key)) {
            None => Ok(None),
            Some(Atom::Text(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(column, expected)),
        }
    }

    fn column(&self, column: &str) -> Result<&Value> {
        self.0.get(column).ok_or_else(|| wrong(column, "there"))
    }

    fn optional(&self, column: &str) -> Result<Option<&Atom>> {
        match self.column(column)? {
            Value::Set(elements) if elements.len() < 2 => Ok(elements.first()),
            _ => Err(wrong(column, "a single value")),
        }
    }

    fn elements<'r, T>(
        &'r self,
        column: &str,
        expected: &'static str,
        element: impl Fn(&'r Atom) -> Option<T>,
    ) -> Result<Vec<T>> {
        let Value::Set(elements) = self.column(column)? else {
            return Err(wrong(column, expected));
        };
        elements
            .iter()
            .map(|atom| element(atom).ok_or_else(|| wrong(column, expected)))
            .collect()
    }
}

fn wrong(column: &str, expected: &'static str) -> Error {
    Error::Column {
        column: column.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_what_it_is_asked_for_as_or_an_error() {
        let id = Uuid::from_u128(1);
        let row = Row::new()
            .with("_uuid", id)
            .with("name", "n")
            .with("tag", 7_i64)
            .with("up", true)
            .with("none", Value::none())
            .with("ports", Value::set([id, Uuid::from_u128(2)]))
            .with("ids", Value::map([("k", "v")]));
        assert_eq!(row.id(), Ok(id));
        assert_eq!(row.text("name"), Ok("n"));
        assert_eq!(row.optional_text("none"), Ok(None));
        assert_eq!(row.optional_integer("tag"), Ok(Some(7)));
        assert_eq!(row.optional_boolean("up"), Ok(Some(true)));
        assert_eq!(row.uuids("ports").map(|ports| ports.len()), Ok(2));
        assert_eq!(row.texts("name"), Ok(vec!["n"]));
        assert_eq!(row.mapped("ids", "k"), Ok(Some("v")));
        assert_eq!(row.mapped("ids", "other"), Ok(None));
        for error in [
            row.text("tag").err(),
            row.text("none").err(),
            row.text("ports").err(),
            row.text("missing").err(),
            row.uuid("name").err(),
            row.texts("ports").err(),
            row.mapped("name", "k").err(),
        ] {
            assert!(matches!(error, Some(Error::Column { .. })), "{error:?}");
        }
        assert_eq!(Row::from_json(&row.to_json()), Ok(row));
    }
}
