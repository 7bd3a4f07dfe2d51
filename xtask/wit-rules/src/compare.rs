//! The rules of `docs/wit.md` for a package that goes on under the same track of versions.

use std::collections::BTreeMap;

use crate::shape::{Interface, Shape};

/// Everything about `new` that a driver built against `old` can't bear.
pub(crate) fn compare(old: &Shape, new: &Shape) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, before) in &old.interfaces {
        match new.interfaces.get(name) {
            Some(after) => interface(name, before, after, new.imported, &mut wrong),
            None => wrong.push(format!("the interface {name} is gone")),
        }
    }
    wrong
}

fn interface(name: &str, before: &Interface, after: &Interface, imported: bool, wrong: &mut Vec<String>) {
    members("type", name, &before.types, &after.types, wrong);
    members("function", name, &before.functions, &after.functions, wrong);
    if imported {
        return;
    }
    for function in after
        .functions
        .keys()
        .filter(|function| !before.functions.contains_key(*function))
    {
        wrong.push(format!(
            "the function {name}.{function} is new, and a driver without it could not be used; give it an interface of its own"
        ));
    }
}

fn members(
    what: &str,
    interface: &str,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    wrong: &mut Vec<String>,
) {
    for (name, old) in before {
        match after.get(name) {
            Some(new) if new == old => {}
            Some(new) => wrong.push(format!("the {what} {interface}.{name} was {old} and is {new}")),
            None => wrong.push(format!("the {what} {interface}.{name} is gone")),
        }
    }
}
