//! Packet filter tables through `nft` (nft(8), libnftables-json(5)).
//!
//! What comes from outside names no table: every object is put into the one that it is for, whatever it says itself. A
//! change is one transaction, so that there is never a moment without rules. `nft` is a process, which is why this is for
//! changes of networks and not for every start of an instance: those change elements of sets where they can.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::error::{Error, Result};

/// Where `nft` is looked for.
const PATH: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Largest ruleset, in bytes.
pub const MAX_RULESET: usize = 4 << 20;
/// Most objects of a ruleset, and most elements of one change.
pub const MAX_OBJECTS: usize = 20_000;
/// Longest name of a table (`NFT_NAME_MAXLEN` of the kernel with the zero byte).
const MAX_NAME: usize = 255;
/// Time for one change.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of its complaint is kept, in bytes.
const MAX_COMPLAINT: usize = 2048;

/// A table of the packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    family: &'static str,
    name: String,
}

impl Table {
    /// The table `name` of `family`: `ip`, `ip6`, `inet`, `arp` or `bridge`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another family, and for a name that `nft` on a command line could not address.
    pub fn new(family: &str, name: impl Into<String>) -> Result<Self> {
        let family = ["ip", "ip6", "inet", "arp", "bridge"]
            .into_iter()
            .find(|known| *known == family);
        let family =
            family.ok_or_else(|| Error::Invalid("the family of a table is ip, ip6, inet, arp or bridge".to_owned()))?;
        let name = name.into();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.".contains(&b);
        let good =
            name.len() <= MAX_NAME && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(plain);
        if good {
            Ok(Self { family, name })
        } else {
            Err(Error::Invalid(format!("{name:?} is not the name of a table")))
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes `ruleset`, a JSON array of `chain`, `rule`, `set`, `map` and `element` objects, all that the table holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no such array; [`Error::Filter`] with what `nft` says.
    pub async fn replace(&self, ruleset: &str) -> Result<()> {
        run(&self.replacement(ruleset)?).await
    }

    /// Adds and removes elements of a set or map, given in JSON. What is there already, or is not there, is no error.
    ///
    /// # Errors
    /// As [`Table::replace`].
    pub async fn change_elements(&self, set: &str, add: &[String], remove: &[String]) -> Result<()> {
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        run(&self.element_changes(set, add, remove)?).await
    }

    /// Deletes the table. What is not there succeeds.
    ///
    /// # Errors
    /// [`Error::Filter`].
    pub async fn delete(&self) -> Result<()> {
        run(&json!({"nftables": [{"add": {"table": self.object()}}, {"delete": {"table": self.object()}}]})).await
    }

    fn object(&self) -> Value {
        json!({"family": self.family, "name": self.name})
    }

    fn replacement(&self, ruleset: &str) -> Result<Value> {
        let Value::Array(objects) = parse("a ruleset", ruleset)? else {
            return Err(Error::Invalid("a ruleset is a JSON array of objects".to_owned()));
        };
        if objects.len() > MAX_OBJECTS {
            return Err(Error::Invalid(format!(
                "a ruleset of {} objects is larger than the {MAX_OBJECTS} allowed",
                objects.len()
            )));
        }
        // Deleting what is not there would fail, so it is made first.
        let mut commands = vec![
            json!({"add": {"table": self.object()}}),
            json!({"delete": {"table": self.object()}}),
            json!({"add": {"table": self.object()}}),
        ];
        for object in objects {
            commands.push(json!({ "add": self.confine(object)? }));
        }
        Ok(json!({ "nftables": commands }))
    }

    /// Puts an object into this table.
    fn confine(&self, object: Value) -> Result<Value> {
        let wrong = |what: &str| Error::Invalid(format!("an object of a ruleset {what}"));
        let Value::Object(object) = object else {
            return Err(wrong("is not a JSON object"));
        };
        let mut members = object.into_iter();
        let (Some((kind, body)), None) = (members.next(), members.next()) else {
            return Err(wrong("does not have one member"));
        };
        if !["chain", "rule", "set", "map", "element"].contains(&kind.as_str()) {
            return Err(wrong(&format!(
                "is of the kind {kind:?}, not chain, rule, set, map or element"
            )));
        }
        let Value::Object(mut body) = body else {
            return Err(wrong("has no body"));
        };
        for place in ["handle", "index"] {
            if body.contains_key(place) {
                return Err(wrong(&format!(
                    "has the member {place}, which has no meaning in a new table"
                )));
            }
        }
        body.insert("family".to_owned(), self.family.into());
        body.insert("table".to_owned(), self.name.clone().into());
        Ok(Value::Object(Map::from_iter([(kind, Value::Object(body))])))
    }

    fn element_changes(&self, set: &str, add: &[String], remove: &[String]) -> Result<Value> {
        if add.len() + remove.len() > MAX_OBJECTS {
            return Err(Error::Invalid(format!(
                "more than {MAX_OBJECTS} elements in one change"
            )));
        }
        let element = |elements: &[String]| -> Result<Value> {
            let list = elements
                .iter()
                .map(|text| parse("an element", text))
                .collect::<Result<Vec<_>>>()?;
            Ok(json!({"element": {"family": self.family, "table": self.name, "name": set, "elem": list}}))
        };
        let mut commands = Vec::new();
        if !remove.is_empty() {
            // Removing what is not there would fail, so it is added first, which does nothing to what is there.
            let removed = element(remove)?;
            commands.extend([json!({ "add": removed }), json!({ "delete": removed })]);
        }
        if !add.is_empty() {
            commands.push(json!({ "add": element(add)? }));
        }
        Ok(json!({ "nftables": commands }))
    }
}

fn parse(what: &str, text: &str) -> Result<Value> {
    if text.len() > MAX_RULESET {
        return Err(Error::Invalid(format!(
            "{what} of {} bytes is larger than the {MAX_RULESET} allowed",
            text.len()
        )));
    }
    serde_json::from_str(text).map_err(|e| Error::Invalid(format!("{what} is not JSON: {e}")))
}

async fn run(commands: &Value) -> Result<()> {
    let program = PATH
        .iter()
        .map(|dir| std::path::Path::new(dir).join("nft"))
        .find(|path| path.is_file());
    let program =
        program.ok_or_else(|| Error::Filter(format!("nft is not installed (looked for in {})", PATH.join(", "))))?;
    let failed = |e: std::io::Error| Error::Filter(format!("can't run {}: {e}", program.display()));
    let mut child = tokio::process::Command::new(&program)
        .args(["-j", "-f", "-"])
        .env_clear()
        .env("PATH", PATH.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let input = commands.to_string();
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // If it ends before it has read everything, its status and its complaint say why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let finished = tokio::time::timeout(PATIENCE, async { tokio::join!(feed, child.wait_with_output()).1 }).await;
    let output = finished
        .map_err(|_| Error::Filter(format!("nft did not finish within {} s", PATIENCE.as_secs())))?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(
        output
            .stderr
            .get(..output.stderr.len().min(MAX_COMPLAINT))
            .unwrap_or_default(),
    )
    .into_owned();
    // The input, which it repeats, is one long line: what matters are the sentences.
    let lines: Vec<&str> = complaint
        .lines()
        .map(str::trim)
        .filter(|line| line.contains("rror") || line.contains("nvalid"))
        .collect();
    let reason = if lines.is_empty() {
        complaint.trim().to_owned()
    } else {
        lines.join("; ")
    };
    Err(Error::Filter(format!("nft refused the change: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new("inet", "own").unwrap()
    }

    #[test]
    fn every_object_is_forced_into_the_table() {
        let ruleset = r#"[{"chain": {"family": "ip", "table": "other", "name": "c", "type": "filter", "hook": "input", "prio": 0}},
                          {"rule": {"table": "other", "chain": "c", "expr": []}}]"#;
        let replacement = table().replacement(ruleset).unwrap();
        let commands = replacement["nftables"].as_array().unwrap();
        assert_eq!(commands.len(), 5);
        assert_eq!(commands[0]["add"]["table"]["name"], "own");
        assert_eq!(commands[1]["delete"]["table"]["name"], "own");
        for (command, kind) in [(&commands[3], "chain"), (&commands[4], "rule")] {
            assert_eq!(command["add"][kind]["table"], "own");
            assert_eq!(command["add"][kind]["family"], "inet");
        }
        assert!(!replacement.to_string().contains("other"));
    }

    #[test]
    fn what_reaches_beyond_a_table_is_refused() {
        for bad in [
            "",
            "{}",
            "[1]",
            "[{}]",
            r#"[{"flush": {"ruleset": null}}]"#,
            r#"[{"table": {"name": "x"}}]"#,
            r#"[{"delete": {"table": {"name": "other"}}}]"#,
            r#"[{"rule": {"chain": "c", "expr": []}, "flush": {}}]"#,
            r#"[{"rule": {"chain": "c", "handle": 4, "expr": []}}]"#,
            r#"[{"rule": null}]"#,
        ] {
            assert!(matches!(table().replacement(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn removals_come_first_and_may_repeat() {
        let changes = table()
            .element_changes("s", &[r#""10.0.0.1""#.to_owned()], &[r#""10.0.0.2""#.to_owned()])
            .unwrap();
        let verbs: Vec<_> = changes["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c.as_object().unwrap().keys().next().unwrap().clone())
            .collect();
        assert_eq!(verbs, ["add", "delete", "add"]);
        assert!(table().element_changes("s", &["nonsense".to_owned()], &[]).is_err());
    }

    #[test]
    fn names_and_families() {
        assert!(Table::new("netdev", "a").is_err());
        for bad in ["", "a b", "a;b", "0a", &"a".repeat(256)] {
            assert!(Table::new("ip", bad).is_err(), "{bad:?}");
        }
    }

    fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Into::into),
            "[a-z]{0,8}".prop_map(Into::into),
            Just(json!("inet")),
            Just(json!("elsewhere")),
        ];
        let key = prop_oneof![
            Just("add".to_owned()),
            Just("flush".to_owned()),
            Just("table".to_owned()),
            Just("family".to_owned()),
            Just("chain".to_owned()),
            Just("rule".to_owned()),
            Just("set".to_owned()),
            Just("element".to_owned()),
            Just("handle".to_owned()),
            "[a-z]{0,8}",
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map(key.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// Whatever a plugin calls a ruleset: the commands add something to its own table, or there are none.
        #[test]
        fn no_ruleset_leaves_its_table(objects in proptest::collection::vec(any_json(), 0..4)) {
            let Ok(commands) = table().replacement(&Value::Array(objects).to_string()) else { return Ok(()) };
            let own = table().object();
            for command in commands["nftables"].as_array().unwrap().iter().skip(3) {
                let (action, object) = command.as_object().unwrap().iter().next().unwrap();
                proptest::prop_assert_eq!(action, "add");
                let (kind, body) = object.as_object().unwrap().iter().next().unwrap();
                proptest::prop_assert!(["chain", "rule", "set", "map", "element"].contains(&kind.as_str()));
                proptest::prop_assert_eq!((&body["family"], &body["table"]), (&own["family"], &own["name"]));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = table().replacement(&text);
            let _ = table().element_changes("set", std::slice::from_ref(&text), &[]);
        }
    }
}
